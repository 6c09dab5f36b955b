"""`fastbert compare`: two models or settings side by side, with the interval of what lies between them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils import logging

from fastbert_cli import scores
from fastbert_cli.compare.command import Compare, Setting
from fastbert_cli.errors import CommandError, faults_explained
from fastbert_cli.models import label_names_of, load_classifier, longest_text, passages, place_and_patch
from fastbert_cli.options import Patching
from fastbert_cli.texts import note_seen, read_for, with_ids_of
from fastbert_hf.comparing import Comparison, compare_results
from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.machine import describe_machine
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.scoring import FLOPS_CONVENTION, Row, full_depth_total, score
from fastbert_hf.training import EvaluationResult

_BASE = "A at full depth"  # of the FLOPs speed-ups of both


def run_compare(options: Compare) -> None:
    """Print both scores and their differences.

    Raises:
        CommandError: a model that cannot be used, models of other classes, or a setting that a model has not.
        DataFileError: the file or data set cannot be used, or has labels that the first model does not know.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    models = [load_classifier(folder) for folder in (options.first, options.second)]
    with faults_explained():
        data = read_for(models[0][0], options.texts)
    if any(model.config.multi_label for model, _ in models):
        raise CommandError("compare is for models that give a text exactly one class; use fastbert evaluate for others")
    rows, results, totals = [], [], []
    sides = zip(("A", "B"), (options.first, options.second), (options.at_a, options.at_b), models, strict=True)
    for name, folder, setting, (model, tokenizer) in sides:
        own = with_ids_of(data, label_names_of(model), str(folder))
        note_seen(model.seen_texts.among(own))
        max_length = longest_text(model, tokenizer, options.max_length)
        dataset = TokenisedDataset(own, tokenizer, max_length, passages(model, tokenizer, max_length, "trained"))
        place_and_patch(model, Patching())
        row, result = _scored(model, dataset, setting, folder, options.batch_size)
        totals.append(full_depth_total(model, dataset))
        # Over one base, or two models of other sizes would look alike at full depth.
        speedup = row["flops_speedup"] * (totals[0] / totals[-1])
        rows.append({**row, "setting": f"{name}, {row['setting']}", "flops_speedup": speedup})
        results.append(_with_ids_of(result, own, data))
    found = compare_results(results[0], results[1], options.confidence)
    if options.as_json:
        values: dict[str, Any] = {
            "machine": describe_machine(),
            "models": [str(options.first), str(options.second)],
            "data": options.texts.data,
            "flops_convention": FLOPS_CONVENTION,
            "flops_speedup_over": _BASE,
            "rows": rows,
            "difference": asdict(found),
        }
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    scores.show(console, rows, over=_BASE)
    console.print(_in_words(found), markup=False)


def _scored(
    model: FastBertForSequenceClassification, dataset: TokenisedDataset, setting: Setting, folder: Path, batch_size: int
) -> tuple[Row, EvaluationResult]:
    """The row of the setting, and the answers behind it."""
    if setting == "calibrated" and model.calibrated_setting is None:
        raise CommandError(f"{folder}: not calibrated; run fastbert calibrate, or name a Speed or full")
    found: list[tuple[Row, EvaluationResult]] = []
    speeds = (setting,) if isinstance(setting, float) else ()
    with scores.progress_bars() as advance, faults_explained(str(folder)):
        score(
            *(model, dataset, speeds),
            batch_size=batch_size,
            progress=advance,
            each=lambda row, result: found.append((row, result)),
        )
    # Full depth, the calibrated setting if there is one, and the Speed.
    if setting == "full":
        return found[0]
    return found[-1] if speeds else found[min(1, len(found) - 1)]


def _with_ids_of(result: EvaluationResult, own: ClassificationData, data: ClassificationData) -> EvaluationResult:
    """`result` with the class ids of `data` in place of those of its model."""
    if own.label_names == data.label_names:
        return result
    known = [*data.label_names, *(name for name in own.label_names if name not in data.label_names)]
    ids = torch.tensor([known.index(name) for name in own.label_names])
    return replace(result, labels=ids[result.labels], predictions=ids[result.predictions])


def _in_words(found: Comparison) -> str:
    def difference(value: float, interval: tuple[float, float]) -> str:
        low, high = interval
        decides = "" if low <= 0 <= high else ", more than chance"
        return f"{100 * value:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f}{decides})"

    accuracy = difference(found.accuracy, found.accuracy_interval)
    macro_f1 = difference(found.macro_f1, found.macro_f1_interval)
    return (
        f"B less A on {found.texts:,} texts, with intervals at {found.confidence:g} confidence: "
        f"accuracy {accuracy}, macro F1 {macro_f1}; {found.other_answers:,} other answers, "
        f"{found.only_first_right:,} right in A only and {found.only_second_right:,} in B only"
    )

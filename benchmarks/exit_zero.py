#!/usr/bin/env python
"""Exit zero: accuracy against FLOPs and seconds with and without a student before the first layer.

    python benchmarks/exit_zero.py --data FOLDER [--run FOLDER] [--tasks ag_news sst2 mrpc] [--backbone e5-small]
                                   [--quick]

FOLDER, --run and --backbone as of adopted_classifiers.py, whose models are taken where they are there and made where
they are not. The hashed bag is distilled on the texts that the other students learned from. All other texts
(development and test) are recorded once, and the run folder keeps the records. Of these, one half chooses two Speeds,
one for layer 0 and one for the layers behind, for each FLOPs speed-up, and the other half measures them, in 100 random
splits; without layer 0 the same with one Speed. Then some of these settings, chosen by the texts for calibration, are
timed on the new texts. Writes exit_zero_cpu_FAMILY.json and .md (families.py), beside the rows of other tasks and
backbones that these have.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

import fastbert_kernels
from adopting import commands
from adopting.measure import batches_of
from adopting.models import Texts, tokenised
from fastbert_hf import ExitRule, FastBertForSequenceClassification
from fastbert_hf.analysis.bag_of_words import train_bag_of_words
from fastbert_hf.calibration import ExitRecords, Objective, calibrate, record_exits
from fastbert_hf.data import TokenisedDataset, join_texts
from fastbert_hf.files import folder_written_atomically
from fastbert_hf.timing import ratio, time_interleaved
from fastbert_hf.training import distill_exit_zero
from harness import markdown_table
from run_folders import model_in_words
from zero.rules import Family, best_rule, splits
from zero.subject import Subject

BATCH = 32
SPEEDUPS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0, 50.0)
TIMED = (4.0, 12.0, 50.0)
SPLITS = 100
MAX_DISAGREEMENT = 0.05  # of a calibration that may leave layer 0 out
QUICK_SPLITS = 3
FIT = "fit.json"
FULL_DEPTH, ALONE = "full depth", "layer 0 alone"


def run_task(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what exit zero is worth for one task; its models are made, or taken from the folder of the run."""
    subject = Subject.of(name, options)
    folder, source, texts, task = subject.folder, subject.source, subject.texts, subject.task
    model, fitted = _with_exit_zero(folder / "exit_zero", source, texts)
    fastbert_kernels.patch(model)
    chosen_on, new = (
        _recorded(folder / f"{called}.safetensors", model, tokenised(part, source, task))
        for called, part in (("calibration", texts.calibration), ("new", texts.new))
    )
    records = _together(chosen_on, new)
    bag = train_bag_of_words(texts.labelled)
    families = {"with": Family.of(records, zero=True), "without": Family.of(records, zero=False)}
    found = splits(families, SPEEDUPS, options.splits)
    return {
        **subject.facts(),
        "load": options.load,
        "labelled": len(texts.labelled),
        "traffic": len(texts.traffic),
        "texts": len(records),
        "fit": fitted,
        "accuracy_by_head": dict(zip(map(str, records.exit_layers), records.right.mean(axis=0).tolist(), strict=True)),
        "bag_of_words": float(np.mean(bag.predict(texts.new) == np.asarray(texts.new.label_ids))),
        "full_depth_new": new.full_depth_accuracy,
        "curve": found,
        "calibrated": _calibrated(chosen_on, options.max_disagreement),
        "times": _times(model, source, chosen_on, texts, task, options),
    }


def _with_exit_zero(folder: Path, source: Path, texts: Texts) -> tuple[Any, dict[str, Any]]:
    """Return the adopted model with exit zero, made now or before, and the report of its fit."""
    if not folder.exists():
        tokenizer = AutoTokenizer.from_pretrained(source)
        model: Any = fastbert_kernels.patch(FastBertForSequenceClassification.from_pretrained(source))
        begin = time.perf_counter()
        result = distill_exit_zero(model, tokenizer, join_texts(texts.traffic))
        fitted = {**vars(result), "seconds": time.perf_counter() - begin}
        with folder_written_atomically(folder) as written:
            model.save_pretrained(written)
            tokenizer.save_pretrained(written)
            (written / FIT).write_text(json.dumps(fitted) + "\n", encoding="utf-8")
    report = json.loads((folder / FIT).read_text(encoding="utf-8"))
    return FastBertForSequenceClassification.from_pretrained(folder).eval(), report


def _recorded(path: Path, model: Any, dataset: TokenisedDataset) -> ExitRecords:
    """Return what every head answers, recorded now or before."""
    if not path.exists():
        record_exits(model, dataset).save(path)
    return ExitRecords.load(path)


def _together(first: ExitRecords, second: ExitRecords) -> ExitRecords:
    labels = torch.cat([first.known_labels, second.known_labels])
    logits, lengths = torch.cat([first.logits, second.logits]), torch.cat([first.lengths, second.lengths])
    return ExitRecords(logits, labels, lengths, first.shape)


def _calibrated(records: ExitRecords, max_disagreement: float) -> dict[str, Any]:
    """Return what a calibration without labels chooses, and whether layer 0 is in it."""
    setting = calibrate(records, Objective(max_disagreement=max_disagreement))
    figures = setting.figures
    return {
        "max_disagreement": max_disagreement,
        "layers": setting.rule.layers,
        "speeds": setting.rule.speeds,
        "flops_speedup": figures.flops_speedup,
        "disagreement": figures.disagreement,
        "exit_counts": figures.exit_counts,
    }


def _times(
    model: Any, source: Path, records: ExitRecords, texts: Texts, task: Any, options: argparse.Namespace
) -> dict[str, Any]:
    """Return seconds and accuracy of some settings on the new texts, chosen by the others."""
    families = {"with": Family.of(records, zero=True), "without": Family.of(records, zero=False)}
    rules: dict[str, ExitRule | float] = {FULL_DEPTH: 0.0, ALONE: ExitRule((0,), (1.0,))}
    for speedup in options.timed:
        for kind, family in families.items():
            rule = best_rule(family, speedup)
            if rule is not None:
                rules[f"{speedup:g}x FLOPs, {kind} layer 0"] = rule
    batches, labels = batches_of(texts, source, task, BATCH)
    tokenizer = AutoTokenizer.from_pretrained(source)
    calls: dict[str, Any] = {
        name: [lambda batch=batch, rule=rule: model(**batch, speed=rule) for batch in batches]
        for name, rule in rules.items()
    }
    firsts = [texts.new.texts[at : at + BATCH] for at in range(0, len(labels), BATCH)]
    seconds = [
        None if texts.new.pairs is None else texts.new.pairs[at : at + BATCH] for at in range(0, len(labels), BATCH)
    ]
    calls["tokenizer"] = [
        lambda pair=pair: tokenizer(*pair, truncation=True, max_length=task.max_length)
        for pair in zip(firsts, seconds, strict=True)
    ]
    taken = time_interleaved(calls, torch.device("cpu"), options.rounds, warmups=1, shuffle=True)
    rows = []
    for name, rule in rules.items():
        with torch.inference_mode():
            outputs = [model(**batch, speed=rule) for batch in batches]
        answers, layers = (torch.cat([output[part] for output in outputs]) for part in ("logits", "exit_layer"))
        rows.append(
            {
                "setting": name,
                "seconds": taken[name].rounds,
                "microseconds_per_text": 1e6 * taken[name].median / len(labels),
                "over_full_depth": ratio(taken[FULL_DEPTH], taken[name]),
                "accuracy": float((answers.argmax(dim=-1) == labels).double().mean()),
                "mean_exit_layer": float(layers.double().mean()),
                "left_at_layer_0": float((layers == 0).double().mean()),
            }
        )
    return {
        "texts": len(labels),
        "batch": BATCH,
        "rows": rows,
        "tokenizer_microseconds_per_text": 1e6 * taken["tokenizer"].median / len(labels),
    }


def table(result: dict[str, Any]) -> str:
    """Return the page beside the JSON file."""
    parts = [
        "# Exit zero",
        f"Accuracies are means over {result['splits']} random splits of the texts: one half chooses Speeds with that "
        f"FLOPs speed-up on it, the other measures. Times: batches of {BATCH}, padded, float32, {result['rounds']} "
        f"rounds, interleaved and shuffled; {result['threads']} threads.",
    ]
    for case in result["tasks"]:
        curve = [
            {
                "FLOPs speed-up": f"{point['speedup']:g}x",
                "without layer 0": _accuracy(point["without"]),
                "with layer 0": _accuracy(point["with"]),
            }
            for point in case["curve"]
        ]
        heads = ", ".join(f"{layer}: {accuracy:.1%}" for layer, accuracy in case["accuracy_by_head"].items())
        times, chosen = case["times"], case["calibrated"]
        clock = [
            {
                "": row["setting"],
                "us per text": f"{row['microseconds_per_text']:.0f}",
                "over full depth": f"{row['over_full_depth']:.2f}x",
                "accuracy": f"{row['accuracy']:.1%}",
                "mean exit layer": f"{row['mean_exit_layer']:.2f}",
                "left at layer 0": f"{row['left_at_layer_0']:.1%}",
            }
            for row in times["rows"]
        ]
        asked = "asked" if 0 in chosen["layers"] else "not asked"
        parts += [
            f"## {case['task']}, {model_in_words(case)}: {case['texts']} texts",
            markdown_table(curve),
            f"Every head alone, by layer: {heads}. On the {times['texts']} new texts full depth has "
            f"{case['full_depth_new']:.1%}, TF-IDF and logistic regression on the {case['labelled']} labelled texts "
            f"{case['bag_of_words']:.1%}.",
            f"Calibrated to at most {chosen['max_disagreement']:.0%} other answers: layer 0 is {asked}, FLOPs speed-up "
            f"{chosen['flops_speedup']:.2f}x.",
            f"On the clock, {times['texts']} new texts (the tokenizer, not counted, takes "
            f"{times['tokenizer_microseconds_per_text']:.0f} us per text; load of the machine before the run "
            f"{case['load'][0]:.1f}):",
            markdown_table(clock),
        ]
    return "\n\n".join(parts)


def _accuracy(found: dict[str, float] | None) -> str:
    return "-" if found is None else f"{found['accuracy']:.2%} at {found['flops_speedup']:.1f}x"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    options = commands.parse_arguments(__doc__, argv, tasks=("ag_news", "sst2", "mrpc"))
    options.splits, options.timed, options.max_disagreement = SPLITS, TIMED, MAX_DISAGREEMENT
    options.load = os.getloadavg()
    if options.quick:
        options.splits, options.timed, options.max_disagreement = QUICK_SPLITS, TIMED[:1], 0.2
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    commands.run_tasks("exit_zero", options, {"splits": options.splits}, run_task, table)


if __name__ == "__main__":
    main()

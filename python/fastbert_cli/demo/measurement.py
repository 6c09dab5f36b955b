"""What the demo measures: a model unpatched and patched in several precisions, at full depth and at every Speed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

import fastbert_kernels
from fastbert_cli.scores import progress_bars
from fastbert_hf.agreement import Agreement, compare_answers
from fastbert_hf.calibration import ExitRecords, ExitRule, record_exits, simulate
from fastbert_hf.calibration.simulation import macro_f1_of
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.machine import computes_in_bfloat16
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.timing import Batch, Seconds, batch_calls, inputs_of, ratio, time_interleaved
from fastbert_hf.training import evaluate

BATCH_SIZE = 32
_CHECKED_BATCHES = 4
# Samples whose uncertainty lies closer to their Speed than this may leave at another layer in another precision.
_TIES = {"patched": 1e-4, "patched bfloat16": 2e-2, "patched int8": 5e-2}

SpeedOrFull = float | None  # full depth where there is no Speed
Times = dict[tuple[str, SpeedOrFull], Seconds]


class Scores(NamedTuple):
    """Of a form of the model at a depth, on all texts."""

    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        records: every exit of every text, of the unpatched model.
        agreement: of every patched form with the unpatched model.
        timed_texts: how many texts times were measured on.
        rows: of full depth and every Speed, with figures of every form of the model.
    """

    records: ExitRecords
    agreement: dict[str, Agreement]
    timed_texts: int
    rows: list[dict[str, Any]]


def measure(
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    speeds: Sequence[float],
    timed: int,
    rounds: int,
) -> Measured:
    """Measure `model` on labelled texts.

    Args:
        model: unpatched, on the CPU.
        dataset: the texts.
        speeds: above 0 and at most 1.
        timed: texts to time, at most: the first whole batches.
        rounds: interleaved repeats of the timing.
    """
    whole = max(1, min(timed, len(dataset)) // BATCH_SIZE)
    batches = [inputs_of(batch, model.device) for batch in list(dataset.batches(BATCH_SIZE))[:whole]]
    variants = make_variants(model)
    depths: list[SpeedOrFull] = [None, *speeds]
    checked = checked_batches(model, dataset, timed)
    with progress_bars() as advance:
        records = record_exits(model, dataset, BATCH_SIZE, advance)
        agreement = {
            name: compare_answers(model, variants[name], checked, speeds, tie)
            for name, tie in _TIES.items()
            if name in variants
        }
        runs = [(name, depth) for depth in depths for name in variants]
        # The records hold every answer of the unpatched model; in batches of input order, most of it would be padding.
        found = {("unpatched", depth): recorded_scores(records, depth) for depth in depths}
        others = [(name, depth) for name, depth in runs if name != "unpatched"]
        for done, (name, depth) in enumerate(others, 1):
            result = evaluate(variants[name], dataset, depth, BATCH_SIZE)
            found[name, depth] = Scores(result.accuracy, result.macro_f1)
            advance("accuracy", done, len(others))
        calls = {(name, depth): batch_calls(variants[name], batches, depth) for name, depth in runs}
        times = time_interleaved(calls, model.device, rounds, warmups=1, progress=advance)
    texts = sum(len(batch["input_ids"]) for batch in batches)
    rows = make_rows(records, texts, found, times, agreement["patched"].is_close)
    return Measured(records, agreement, texts, rows)


def make_variants(model: FastBertForSequenceClassification) -> dict[str, FastBertForSequenceClassification]:
    """Return the forms to compare: unpatched, patched, patched in bfloat16 where the processor computes in it, and in
    int8 where the kernels do."""
    variants = {"unpatched": model, "patched": fastbert_kernels.patch(copy.deepcopy(model))}
    if computes_in_bfloat16():
        variants["patched bfloat16"] = fastbert_kernels.patch(copy.deepcopy(model), dtype=torch.bfloat16)
    with contextlib.suppress(ValueError):  # no compiled CPU kernels
        variants["patched int8"] = fastbert_kernels.patch(copy.deepcopy(model), dtype=torch.int8)
    return variants


def checked_batches(model: FastBertForSequenceClassification, dataset: TokenisedDataset, timed: int) -> list[Batch]:
    """Return the first batches of the timed texts, sorted by length: answers are compared, not padding."""
    lengths = dataset.lengths[: min(timed, _CHECKED_BATCHES * BATCH_SIZE)]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = [order[begin : begin + BATCH_SIZE] for begin in range(0, len(order), BATCH_SIZE)]
    return [inputs_of(dataset.collate([dataset[row] for row in rows]), model.device) for rows in batches]


def rule_of(records: ExitRecords, depth: SpeedOrFull) -> ExitRule:
    """Return the rule of one Speed for all student classifiers, or of full depth."""
    return ExitRule(()) if depth is None else ExitRule.one_speed(records.student_layers, depth)


def recorded_scores(records: ExitRecords, depth: SpeedOrFull) -> Scores:
    """Return the scores of the model that was recorded."""
    result = simulate(records, rule_of(records, depth))
    return Scores(result.accuracy, macro_f1_of(records, result.predictions))


def make_rows(
    records: ExitRecords, timed: int, scores: dict[tuple[str, SpeedOrFull], Scores], times: Times, agrees: bool
) -> list[dict[str, Any]]:
    """Return a row for every depth that was timed, with figures of every form of the model.

    Scores and the mean exit layer are over all texts, times and the FLOPs speed-up beside them over the first `timed`.
    Speed-ups are left out when the answers do not agree.
    """
    rows: dict[SpeedOrFull, dict[str, Any]] = {}
    for (name, depth), taken in times.items():
        if depth not in rows:
            rule = rule_of(records, depth)
            rows[depth] = {
                "speed": depth,
                "mean_exit_layer": simulate(records, rule).mean_exit_layer,
                "flops_speedup": simulate(records.rows(torch.arange(timed)), rule).flops_speedup,
                "variants": {},
            }
        figures: dict[str, Any] = {**scores[name, depth]._asdict(), "seconds": taken.rounds}
        if agrees:
            figures["speedup"] = ratio(times["unpatched", None], taken)
            figures["realisation"] = ratio(times[name, None], taken) / rows[depth]["flops_speedup"]
        rows[depth]["variants"][name] = figures
    return list(rows.values())

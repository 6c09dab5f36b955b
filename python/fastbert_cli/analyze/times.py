"""Times of an analysis: models at several Speeds and static models of fewer layers, interleaved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastbert_cli import measure
from fastbert_cli.errors import CommandError
from fastbert_cli.models import place_and_patch
from fastbert_cli.options import UNPATCHED, Patching
from fastbert_hf.analysis import Key, WallClock, cut_to_depth
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.exits.resolution import Speed
from fastbert_hf.modeling import FastBertForSequenceClassification

ROUNDS = 3
# Every patched model has packed weights of its own, so not every depth of a deep model is timed.
_MOST_DEPTHS = 6
# Batches on which patched and unpatched answers are compared.
_CHECKED_BATCHES = 4

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TimedModel:
    """An unpatched model and the tokenised texts that it is timed on."""

    model: FastBertForSequenceClassification
    batches: list[Batch]


def batches_to_time(dataset: TokenisedDataset, size: int, samples: int, device: torch.device) -> list[Batch]:
    """Batches of `size` on `device`, evenly spread over the data, with about `samples` samples in all."""
    starts = np.arange(0, len(dataset), size)
    wanted = max(1, samples // size)
    if wanted < len(starts):
        starts = starts[: len(dataset) // size]  # full ones
        starts = starts[np.linspace(0, len(starts) - 1, wanted).round().astype(np.int64)]
    batches = (
        dataset.collate([dataset[row] for row in range(start, min(start + size, len(dataset)))])
        for start in starts.tolist()
    )
    return [{name: tensor.to(device) for name, tensor in batch.items() if name != "labels"} for batch in batches]


def time_models(
    models: Mapping[str, TimedModel], speeds: Sequence[float], backend: str, track: measure.Track
) -> tuple[dict[str, dict[Key, WallClock]], dict[str, dict[str, float]]]:
    """Times of every model at every Speed, with its calibrated setting, at full depth and cut to fewer layers.

    Args:
        models: by name; the full depth of the first has the speed-up 1. All have batches of the same texts.
        speeds: in [0, 1].
        backend: of `place_and_patch`.
        track: shows progress.

    Returns:
        For every model its times; and how far its patched answers are the unpatched ones (`measure.check_agreement`),
        empty where it is not patched.

    Raises:
        CommandError: it cannot be patched, or patched and unpatched answers differ.
    """
    variants: dict[tuple[str, Key], Callable[..., Any]] = {}
    agreement: dict[str, dict[str, float]] = {}
    for name, timed in models.items():
        model = timed.model
        adaptive = copy.deepcopy(model)
        if place_and_patch(adaptive, Patching(backend)):
            agreement[name] = _agreement(timed, adaptive, speeds)
        for speed in speeds:
            variants[name, ("speed", speed)] = _at(name, adaptive, speed)
        if model.calibrated_setting is not None:
            variants[name, ("calibrated", None)] = _at(name, adaptive, model.calibrated_setting.rule)
        for layer in depths_to_time(model.config.exit_layers):
            static = cut_to_depth(model, layer)
            # What is said about the first holds for these too.
            place_and_patch(static, Patching(backend if name in agreement else UNPATCHED))
            variants[name, ("depth", layer)] = _at(name, static, None)
    inputs: Any = [
        dict(zip(models, batches, strict=True))
        for batches in zip(*(timed.batches for timed in models.values()), strict=True)
    ]
    texts = sum(len(batch["input_ids"]) for batch in next(iter(models.values())).batches)
    every: Any = variants
    seconds: Any = measure.time_variants(every, inputs, [None], ROUNDS, track)
    first = next(iter(models))
    baseline = seconds[(first, ("depth", models[first].model.config.num_hidden_layers)), None]
    times: dict[str, dict[Key, WallClock]] = {name: {} for name in models}
    for name, key in variants:
        timing = seconds[(name, key), None]
        times[name][key] = WallClock(
            milliseconds_per_text=1e3 * timing.median / texts,
            speedup=measure.ratio(baseline, timing),
            speedup_rounds=tuple(a / b for a, b in zip(baseline.rounds, timing.rounds, strict=True)),
        )
    return times, agreement


def depths_to_time(exit_layers: Sequence[int]) -> list[int]:
    """The last layer, and at most `_MOST_DEPTHS` of the others, evenly spread."""
    *students, last = exit_layers
    chosen = np.unique(np.linspace(0, len(students) - 1, min(len(students), _MOST_DEPTHS)).round().astype(np.int64))
    return [*(students[place] for place in chosen), last]


def _at(name: str, model: FastBertForSequenceClassification, own_speed: Speed | None) -> Callable[..., Any]:
    """`model` at `own_speed`, called as `time_variants` calls: with the batches of all models and one Speed for all."""

    def run(*, speed: None, **batches: Batch) -> Any:
        return model(**batches[name], speed=own_speed)

    return run


def _agreement(
    timed: TimedModel, patched: FastBertForSequenceClassification, speeds: Sequence[float]
) -> dict[str, float]:
    batches = timed.batches[:: max(1, len(timed.batches) // _CHECKED_BATCHES)][:_CHECKED_BATCHES]
    both = {"unpatched": timed.model, "patched": patched}
    found = measure.check_agreement(both, batches, speeds, lambda items: items)["patched"]
    if found["exit_layers"] < 1 or found["labels"] < 0.99:
        raise CommandError(
            f"patched and unpatched answers differ ({found['labels']:.2%} of labels and {found['exit_layers']:.2%} of "
            "exit layers are equal), so no times are measured; use --backend none or --no-time"
        )
    return found

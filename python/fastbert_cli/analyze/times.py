"""Times of an analysis: models at several Speeds and static models of fewer layers, interleaved."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from fastbert_cli.errors import CommandError
from fastbert_cli.models import place_and_patch
from fastbert_cli.options import UNPATCHED, Patching
from fastbert_hf.agreement import Agreement, compare_answers
from fastbert_hf.analysis import BagOfWords, Key, WallClock, cut_to_depth
from fastbert_hf.data import TextData, TokenisedDataset
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.progress import Progress
from fastbert_hf.timing import Batch, Call, Seconds, batch_calls, inputs_of, ratio, time_interleaved

ROUNDS = 3
# Every patched model has packed weights of its own, so not every depth of a deep model is timed.
_MOST_DEPTHS = 6
# Batches on which patched and unpatched answers are compared.
_CHECKED_BATCHES = 4


@dataclass(frozen=True)
class TimedModel:
    """An unpatched model and the tokenised texts that it is timed on."""

    model: FastBertForSequenceClassification
    batches: list[Batch]


def rows_to_time(rows: int, size: int, samples: int) -> list[range]:
    """Return batches of `size` rows, evenly spread over the data, with about `samples` samples in all."""
    starts = np.arange(0, rows, size)
    wanted = max(1, samples // size)
    if wanted < len(starts):
        starts = starts[: rows // size]  # full ones
        starts = starts[np.linspace(0, len(starts) - 1, wanted).round().astype(np.int64)]
    return [range(start, min(start + size, rows)) for start in starts.tolist()]


def batches_to_time(dataset: TokenisedDataset, size: int, samples: int, device: torch.device) -> list[Batch]:
    """Return the batches of `rows_to_time`, on `device`."""
    batches = rows_to_time(len(dataset), size, samples)
    return [inputs_of(dataset.collate([dataset[row] for row in rows]), device) for rows in batches]


def bag_calls(bag: BagOfWords, data: TextData, size: int, samples: int) -> list[Call]:
    """Return a call for each of the batches of `rows_to_time`: the bag of words predicts, from the texts."""

    def part(rows: range) -> TextData:
        pairs = None if data.pairs is None else [data.pairs[row] for row in rows]
        return TextData([data.texts[row] for row in rows], pairs)

    return [partial(bag.predict, part(rows)) for rows in rows_to_time(len(data), size, samples)]


def time_models(
    models: Mapping[str, TimedModel],
    speeds: Sequence[float],
    backend: str,
    progress: Progress,
    baseline: Sequence[Call] | None = None,
) -> tuple[dict[str, dict[Key, WallClock]], WallClock | None, dict[str, Agreement]]:
    """Time every model at every Speed, with its calibrated setting, at full depth and cut to fewer layers.

    Args:
        models: by name; the full depth of the first has the speed-up 1. All have batches of the same texts.
        speeds: in [0, 1].
        backend: of `place_and_patch`.
        progress: is told of the step "times".
        baseline: calls of a bag of words on the same texts, if there is one.

    Returns:
        For every model its times; those of the baseline; and for every model that is patched, how far its answers are
        the unpatched ones.

    Raises:
        CommandError: it cannot be patched, or patched and unpatched answers differ.
    """
    calls: dict[tuple[str, Key] | None, Sequence[Call]] = {} if baseline is None else {None: baseline}
    agreement: dict[str, Agreement] = {}
    for name, timed in models.items():
        model = timed.model
        adaptive = copy.deepcopy(model)
        if place_and_patch(adaptive, Patching(backend)):
            agreement[name] = _agreement(timed, adaptive, speeds)
        for speed in speeds:
            calls[name, ("speed", speed)] = batch_calls(adaptive, timed.batches, speed)
        if model.calibrated_setting is not None:
            calls[name, ("calibrated", None)] = batch_calls(adaptive, timed.batches, model.calibrated_setting.rule)
        for layer in depths_to_time(model.config.exit_layers):
            static = cut_to_depth(model, layer)
            # What is said about the first holds for these too.
            place_and_patch(static, Patching(backend if name in agreement else UNPATCHED))
            calls[name, ("depth", layer)] = batch_calls(static, timed.batches, None)
    first = next(iter(models))
    seconds = time_interleaved(calls, models[first].model.device, ROUNDS, warmups=1, progress=progress)
    texts = sum(len(batch["input_ids"]) for batch in models[first].batches)
    full_depth = seconds[first, ("depth", models[first].model.config.num_hidden_layers)]

    def clock(taken: Seconds) -> WallClock:
        return WallClock(
            milliseconds_per_text=1e3 * taken.median / texts,
            speedup=ratio(full_depth, taken),
            speedup_rounds=tuple(a / b for a, b in zip(full_depth.rounds, taken.rounds, strict=True)),
        )

    times: dict[str, dict[Key, WallClock]] = {name: {} for name in models}
    for place, taken in seconds.items():
        if place is not None:
            name, key = place
            times[name][key] = clock(taken)
    return times, None if baseline is None else clock(seconds[None]), agreement


def depths_to_time(exit_layers: Sequence[int]) -> list[int]:
    """The last layer, and at most `_MOST_DEPTHS` of the others, evenly spread."""
    *students, last = (layer for layer in exit_layers if layer > 0)  # exit zero alone has no layer to time
    chosen = np.unique(np.linspace(0, len(students) - 1, min(len(students), _MOST_DEPTHS)).round().astype(np.int64))
    return [*(students[place] for place in chosen), last]


def _agreement(timed: TimedModel, patched: FastBertForSequenceClassification, speeds: Sequence[float]) -> Agreement:
    batches = timed.batches[:: max(1, len(timed.batches) // _CHECKED_BATCHES)][:_CHECKED_BATCHES]
    found = compare_answers(timed.model, patched, batches, speeds)
    if not found.is_close:
        raise CommandError(
            f"patched and unpatched answers differ ({found.labels:.2%} of labels and {found.exit_layers:.2%} of "
            "exit layers are equal), so no times are measured; use --backend none or --no-time"
        )
    return found

"""A model's scores on labelled texts, setting by setting: accuracy, exits, FLOPs, and times if wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

from fastbert_hf.data import TokenisedDataset
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.flops import Convention, ModelShape, flops_speedup, full_depth_flops
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.progress import Progress, no_progress
from fastbert_hf.timing import Depth, batch_calls, inputs_of, ratio, time_interleaved
from fastbert_hf.training import EvaluationResult, evaluate

FLOPS_CONVENTION: Convention = "paper"  # of fastbert_hf.flops
_ROUNDS = 3

Row: TypeAlias = dict[str, Any]


def score(
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    speeds: Iterable[float],
    speedups: Iterable[float] = (),
    *,
    batch_size: int = 32,
    timed: bool = False,
    progress: Progress = no_progress,
    each: Callable[[Row, EvaluationResult], None] = lambda row, result: None,
) -> list[Row]:
    """Return a row for full depth, the calibrated setting if the model has one, each Speed and each speed-up.

    Args:
        model: patched or not, in eval mode, on any device.
        dataset: labelled samples; the passages of a text have one answer together.
        speeds: in [0, 1].
        speedups: FLOPs speed-ups of the linear knob; the model must be calibrated.
        batch_size: samples per forward pass, in the order of the data.
        timed: measure times too, over all of the data.
        progress: is told of the steps "scores" and "times".
        each: is told of every row, without times, and of the answers behind it.

    Returns:
        Rows of `setting` (its name), `speed` (`None`: full depth, or one Speed per layer), `accuracy` and `macro_f1` as
        in `training.evaluate`, `mean_exit_layer`, `flops_speedup` at the samples' own lengths, with the heads that are
        asked; and if timed `ms_per_text`, median of three interleaved rounds, `speedup` over the same model at full
        depth, and `realisation`, that over the FLOPs speed-up.

    Raises:
        ValueError: a Speed that the model refuses, or a speed-up that it is not calibrated for.
    """
    depths = _depths(model, speeds, speedups)
    shape = ModelShape.from_config(model.config)
    rows: list[Row] = []
    for done, (name, depth) in enumerate(depths, 1):
        result = evaluate(model, dataset, depth, batch_size)
        layers = result.sample_exit_layers.numpy()
        asked = shape.asking(_layers_asked(model, depth))
        rows.append(
            {
                "setting": name,
                "speed": None if isinstance(depth, ExitRule) else depth,
                "accuracy": result.accuracy,
                "macro_f1": result.macro_f1,
                "mean_exit_layer": float(result.exit_layers.double().mean()),
                "flops_speedup": flops_speedup(asked, layers, np.asarray(dataset.lengths), FLOPS_CONVENTION),
            }
        )
        each(rows[-1], result)
        progress("scores", done, len(depths))
    if timed:
        _add_times(rows, [depth for _, depth in depths], model, dataset, batch_size, progress)
    return rows


def full_depth_total(model: FastBertForSequenceClassification, dataset: TokenisedDataset) -> int:
    """Return the FLOPs of all samples of `dataset` at full depth, by `FLOPS_CONVENTION`."""
    shape = ModelShape.from_config(model.config)
    return int(full_depth_flops(shape, np.asarray(dataset.lengths), FLOPS_CONVENTION).sum())


def _depths(
    model: FastBertForSequenceClassification, speeds: Iterable[float], speedups: Iterable[float]
) -> list[tuple[str, Depth]]:
    """Return what to score at, with its name."""
    depths: list[tuple[str, Depth]] = [("full depth", None)]
    setting = model.calibrated_setting
    if setting is not None:
        depths.append(("calibrated", setting.rule))
    depths += [(f"Speed {speed:g}", speed) for speed in speeds]
    for speedup in speedups:
        model.resolve_speed(None, speedup, 1)  # says why where it is not possible
        assert setting is not None
        depths.append((f"speed-up {speedup:g}", setting.speed_for_speedup(speedup)))
    return depths


def _layers_asked(model: FastBertForSequenceClassification, depth: Depth) -> tuple[int, ...]:
    """Return the layers whose student classifiers run."""
    resolved = model.resolve_speed(0.0 if depth is None else depth, None, 1)
    return tuple(layer for layer in model.config.exit_layers[:-1] if resolved.asks(layer))


def _add_times(
    rows: list[Row],
    depths: list[Depth],
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    batch_size: int,
    progress: Progress,
) -> None:
    batches = [inputs_of(batch, model.device) for batch in dataset.batches(batch_size)]
    calls = {depth: batch_calls(model, batches, depth) for depth in depths}
    times = time_interleaved(calls, model.device, _ROUNDS, warmups=1, progress=progress)
    for row, depth in zip(rows, depths, strict=True):
        row["ms_per_text"] = 1e3 * times[depth].median / dataset.num_texts
        row["speedup"] = ratio(times[None], times[depth])
        row["realisation"] = row["speedup"] / row["flops_speedup"]

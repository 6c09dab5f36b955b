"""A model's scores on labelled texts, setting by setting: computed, and shown as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fastbert_cli import measure
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.flops import Convention, ModelShape, flops_speedup
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training import evaluate

SPEEDS = (0.1, 0.3, 0.5, 0.8)
FLOPS_CONVENTION: Convention = "paper"  # of fastbert_hf.flops

_COLUMNS = {
    "setting": ("setting", "{}"),
    "accuracy": ("accuracy", "{:.2%}"),
    "macro_f1": ("macro\nF1", "{:.4f}"),
    "mean_exit_layer": ("mean exit\nlayer", "{:.2f}"),
    "flops_speedup": ("FLOPs\nspeed-up", "{:.2f}x"),
    "ms_per_text": ("ms per\ntext", "{:.3f}"),
    "speedup": ("speed-up", "{:.2f}x"),
    "realisation": ("realisation", "{:.2f}"),
}
_ROUNDS = 3

Row = dict[str, Any]


def score(
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    speeds: Iterable[float] = SPEEDS,
    speedups: Iterable[float] = (),
    *,
    batch_size: int = 32,
    timed: bool = False,
) -> list[Row]:
    """A row for full depth, the calibrated setting if the model has one, each Speed and each speed-up, with progress on
    stderr.

    Args:
        model: patched or not, in eval mode, on any device.
        dataset: labelled samples.
        speeds: in [0, 1].
        speedups: FLOPs speed-ups of the linear knob; the model must be calibrated.
        batch_size: samples per forward pass, in the order of the data.
        timed: measure times too, over all of the data.

    Returns:
        Rows of `setting` (its name), `speed` (`None`: full depth, or one Speed per layer), `accuracy` and `macro_f1` as
        in `training.evaluate`, `mean_exit_layer`, `flops_speedup` at the samples' own lengths, with the heads that are
        asked; and if timed `ms_per_text`, median of three interleaved rounds, `speedup` over the same model at full
        depth, and `realisation`, that over the FLOPs speed-up.
    """
    depths = _depths(model, speeds, speedups)
    shape = ModelShape.from_config(model.config)
    lengths = np.asarray(dataset.lengths)
    rows: list[Row] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, depth in progress.track(depths, description="scores"):
            result = evaluate(model, dataset, depth, batch_size)
            layers = result.exit_layers.numpy()
            asked = shape.asking(_layers_asked(model, depth))
            rows.append(
                {
                    "setting": name,
                    "speed": None if isinstance(depth, ExitRule) else depth,
                    "accuracy": result.accuracy,
                    "macro_f1": result.macro_f1,
                    "mean_exit_layer": float(layers.mean()),
                    "flops_speedup": flops_speedup(asked, layers, lengths, FLOPS_CONVENTION),
                }
            )
        if timed:
            _add_times(rows, [depth for _, depth in depths], model, dataset, batch_size, progress)
    return rows


def _depths(
    model: FastBertForSequenceClassification, speeds: Iterable[float], speedups: Iterable[float]
) -> list[tuple[str, measure.Depth]]:
    """What to score at, with its name."""
    depths: list[tuple[str, measure.Depth]] = [("full depth", None)]
    setting = model.calibrated_setting
    if setting is not None:
        depths.append(("calibrated", setting.rule))
    depths += [(f"Speed {speed:g}", speed) for speed in speeds]
    if speedups:
        assert setting is not None
        depths += [(f"speed-up {speedup:g}", setting.speed_for_speedup(speedup)) for speedup in speedups]
    return depths


def _layers_asked(model: FastBertForSequenceClassification, depth: measure.Depth) -> tuple[int, ...]:
    """The layers whose student classifiers run."""
    resolved = model.resolve_speed(0.0 if depth is None else depth, None, 1)
    return tuple(layer for layer in model.config.exit_layers[:-1] if resolved.asks(layer))


def _add_times(
    rows: list[Row],
    depths: Sequence[measure.Depth],
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    batch_size: int,
    progress: Progress,
) -> None:
    batches = [
        {name: tensor.to(model.device) for name, tensor in batch.items()} for batch in dataset.batches(batch_size)
    ]

    def track(items: Iterable[Any]) -> Iterable[Any]:
        return progress.track(list(items), description="times")

    times = measure.time_variants({"model": model}, batches, depths, _ROUNDS, track)
    for row, depth in zip(rows, depths, strict=True):
        time = times["model", depth]
        speedup = measure.ratio(times["model", None], time)
        row["ms_per_text"] = 1e3 * time.median / len(dataset)
        row["speedup"] = speedup
        row["realisation"] = speedup / row["flops_speedup"]


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print `rows` as a table."""
    columns = _columns_of(rows)
    table = Table(box=None, pad_edge=False)  # all columns fit into 80 characters
    for name in columns:
        table.add_column(_COLUMNS[name][0], justify="left" if name == "setting" else "right")
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in columns))
    console.print(table)


def for_card(rows: Sequence[Row]) -> list[dict[str, str]]:
    """`rows` with the headings and figures of the table."""
    columns = _columns_of(rows)
    return [{_COLUMNS[name][0].replace("\n", " "): _cell(name, row[name]) for name in columns} for row in rows]


def _columns_of(rows: Sequence[Row]) -> list[str]:
    return [name for name in _COLUMNS if rows and name in rows[0]]


def _cell(name: str, value: Any) -> str:
    return _COLUMNS[name][1].format(value)

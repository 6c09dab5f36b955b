"""A model's scores on labelled texts, Speed by Speed: computed, and shown as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fastbert_hf.cli import measure
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.flops import Convention, ModelShape, flops_speedup
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training import evaluate

SPEEDS = (0.1, 0.3, 0.5, 0.8)
FLOPS_CONVENTION: Convention = "paper"  # of fastbert_hf.flops

_COLUMNS = {
    "speed": ("Speed", "{:g}"),
    "accuracy": ("accuracy", "{:.2%}"),
    "macro_f1": ("macro\nF1", "{:.4f}"),
    "mean_exit_layer": ("mean exit\nlayer", "{:.2f}"),
    "flops_speedup": ("FLOPs\nspeed-up", "{:.2f}x"),
    "ms_per_text": ("ms per\ntext", "{:.3f}"),
    "speedup": ("speed-up", "{:.2f}x"),
    "realisation": ("realisation", "{:.2f}"),
}
_ROUNDS = 3

Row = dict[str, float | None]


def score(
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    speeds: Iterable[float] = SPEEDS,
    *,
    batch_size: int = 32,
    timed: bool = False,
) -> list[Row]:
    """One row for full depth and one for each Speed, with progress on stderr.

    Args:
        model: patched or not, in eval mode, on any device.
        dataset: labelled samples.
        speeds: in [0, 1].
        batch_size: samples per forward pass, in the order of the data.
        timed: measure times too, over all of the data.

    Returns:
        Rows of `speed` (`None`: full depth), `accuracy` and `macro_f1` as in `training.evaluate`, `mean_exit_layer`,
        `flops_speedup` at the samples' own lengths; and if timed `ms_per_text`, median of three interleaved rounds,
        `speedup` over the same model at full depth, and `realisation`, that over the FLOPs speed-up.
    """
    depths: list[float | None] = [None, *speeds]
    shape = ModelShape.from_config(model.config)
    lengths = np.asarray(dataset.lengths)
    rows: list[Row] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for speed in progress.track(depths, description="scores"):
            result = evaluate(model, dataset, speed, batch_size)
            layers = result.exit_layers.numpy()
            rows.append(
                {
                    "speed": speed,
                    "accuracy": result.accuracy,
                    "macro_f1": result.macro_f1,
                    "mean_exit_layer": float(layers.mean()),
                    "flops_speedup": 1.0 if speed is None else flops_speedup(shape, layers, lengths, FLOPS_CONVENTION),
                }
            )
        if timed:
            _add_times(rows, model, dataset, batch_size, progress)
    return rows


def _add_times(
    rows: list[Row],
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

    speeds = [row["speed"] for row in rows]
    times = measure.time_variants({"model": model}, batches, speeds, _ROUNDS, track)
    for row in rows:
        time = times["model", row["speed"]]
        speedup = measure.ratio(times["model", None], time)
        assert row["flops_speedup"] is not None
        row["ms_per_text"] = 1e3 * time.median / len(dataset)
        row["speedup"] = speedup
        row["realisation"] = speedup / row["flops_speedup"]


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print `rows` as a table."""
    columns = list(rows[0])
    table = Table(box=None, pad_edge=False)  # all columns fit into 80 characters
    for name in columns:
        table.add_column(_COLUMNS[name][0], justify="right")
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in columns))
    console.print(table)


def for_card(rows: Sequence[Row]) -> list[dict[str, str]]:
    """`rows` with the headings and figures of the table."""
    return [{_COLUMNS[name][0].replace("\n", " "): _cell(name, value) for name, value in row.items()} for row in rows]


def _cell(name: str, value: float | None) -> str:
    return "full depth" if value is None else _COLUMNS[name][1].format(value)

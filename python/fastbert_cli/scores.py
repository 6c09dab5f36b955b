"""Scores of a model as a table, and progress bars."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fastbert_hf.scoring import Row
from fastbert_hf.training import TrainingResult

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
_LOSS = 0.995  # below which a speed-up is told as what it is
Advance = Callable[[str, int, int], None]  # what, how much is done, how much there is


@contextmanager
def progress_bars(wanted: bool = True) -> Iterator[Advance]:
    """Show progress on stderr, if that is a terminal and it is wanted: a bar for every step that is named."""
    errors = Console(stderr=True)
    # Where it is no terminal, a bar would leave an empty line before the message of an error.
    with Progress(console=errors, transient=True, disable=not (wanted and errors.is_terminal)) as progress:
        tasks: dict[str, Any] = {}

        def advance(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step)
            progress.update(tasks[step], completed=done, total=total)

        yield advance


def show(console: Console, rows: Sequence[Row], over: str | None = None) -> None:
    """Print `rows` as a table.

    Args:
        console: to print to.
        rows: of one or several models.
        over: what their FLOPs speed-ups are over; `None`: each over its own model at full depth.
    """
    columns = _columns_of(rows)
    table = Table(box=None, pad_edge=False)  # all columns fit into 80 characters
    for name in columns:
        heading = _COLUMNS[name][0]
        if name == "flops_speedup" and over is not None:
            heading = f"FLOPs speed-up\nover {over}"
        table.add_column(heading, justify="left" if name == "setting" else "right")
    for row in rows:
        table.add_row(*(_cell(name, row.get(name)) for name in columns))
    console.print(table)


def show_layers(console: Console, training: Mapping[str, TrainingResult]) -> None:
    """Print what each exit head of the last step would score if every text left there, in the epoch that was kept."""
    *_, last = training.values()
    for epoch in last.epochs:
        layers = [name.rpartition("_")[2] for name in epoch if name.startswith("dev_accuracy_layer_")]
        if epoch["epoch"] != math.ceil(last.best_epoch or 0) or not layers:
            continue
        table = Table(box=None, pad_edge=False)
        for heading in ("if every text left there", "accuracy", "macro F1"):
            table.add_column(heading, justify="left" if "text" in heading else "right")
        names = [(f"layer {layer}", f"layer_{layer}") for layer in layers]
        if "dev_accuracy_teacher" in epoch:
            names.append(("teacher", "teacher"))
        for name, key in names:
            table.add_row(name, f"{epoch[f'dev_accuracy_{key}']:.2%}", f"{epoch[f'dev_macro_f1_{key}']:.4f}")
        console.print()
        console.print(table)


def note_losses(rows: Sequence[Row]) -> None:
    """Say on stderr which settings cost more than they save."""
    losing = [f"{row['setting']} ({row['flops_speedup']:.2f}x)" for row in rows if row["flops_speedup"] < _LOSS]
    if losing:
        print(
            f"note: {', '.join(losing)} costs more than full depth, since students are asked and too few texts leave; "
            "distill longer (--distil-epochs), give fewer --exit-layers, or take a higher Speed",
            file=sys.stderr,
        )


def note_baseline(rows: Sequence[Row], bag: Row) -> None:
    """Say on stderr that full depth, the first of `rows`, is worse than the bag of words, if it is."""
    whole = rows[0]
    if whole["accuracy"] >= bag["accuracy"]:
        return
    print(
        f"note: full depth is right on {whole['accuracy']:.2%} of --dev, a {bag['setting']} on {bag['accuracy']:.2%} "
        f"after {bag['seconds_of_training']:.1f} s of training: the teacher has learnt too little, or these texts need "
        "no encoder; try more --epochs, another --learning-rate or another --backbone",
        file=sys.stderr,
    )


def for_card(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return `rows` with the headings and figures of the table."""
    columns = _columns_of(rows)
    return [{_COLUMNS[name][0].replace("\n", " "): _cell(name, row.get(name)) for name in columns} for row in rows]


def _columns_of(rows: Sequence[Row]) -> list[str]:
    return [name for name in _COLUMNS if rows and name in rows[0]]


def _cell(name: str, value: Any) -> str:
    return "-" if value is None else _COLUMNS[name][1].format(value)

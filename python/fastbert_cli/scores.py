"""Scores of a model as a table, and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fastbert_hf.scoring import Row

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
Advance = Callable[[str, int, int], None]  # what, how much is done, how much there is


@contextmanager
def progress_bars() -> Iterator[Advance]:
    """Show progress on stderr, if that is a terminal: a bar for every step that is named."""
    errors = Console(stderr=True)
    # Where it is no terminal, a bar would leave an empty line before the message of an error.
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def advance(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step)
            progress.update(tasks[step], completed=done, total=total)

        yield advance


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
    """Return `rows` with the headings and figures of the table."""
    columns = _columns_of(rows)
    return [{_COLUMNS[name][0].replace("\n", " "): _cell(name, row[name]) for name in columns} for row in rows]


def _columns_of(rows: Sequence[Row]) -> list[str]:
    return [name for name in _COLUMNS if rows and name in rows[0]]


def _cell(name: str, value: Any) -> str:
    return _COLUMNS[name][1].format(value)

"""The rows that `predict` writes: tables, JSON lines and Parquet, row by row."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TextIO

from fastbert_cli.errors import CommandError
from fastbert_hf.data import JSON_LINES
from fastbert_hf.data.labels import SEPARATOR, join_labels
from fastbert_hf.data.parquet import PARQUET
from fastbert_hf.files import OutputInUseError, bytes_written_atomically, file_written_atomically

_COLUMNS = ("label", "probability", "uncertainty", "exit_layer")
_SCORE_COLUMNS = ("score", "uncertainty", "exit_layer")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets take what begins with one for a formula
_ROWS_AT_ONCE = 8192


class Row(NamedTuple):
    """What is written of a text.

    Attributes:
        labels: its class; of a multi-label model all of its classes; of one with one output none.
        probabilities: of each of them; of a model with one output the score.
        uncertainty: at which it left.
        exit_layer: at which it left.
        every: probabilities of all classes that were asked for.
    """

    labels: list[str]
    probabilities: list[float]
    uncertainty: float
    exit_layer: int
    every: list[float]


@dataclass(frozen=True)
class Layout:
    """What a row of the output has beside the answer.

    Attributes:
        kept: names of the columns that are copied.
        kinds: type of each, as far as it is known: int, float, bool or str.
        classes: names of all classes, to write the probabilities of all.
        multi_label: a text has any number of classes.
        scores: a text has a score in place of classes.
        safe: what looks like a formula is marked as text; `None`: labels in `.csv`.
    """

    kept: Sequence[str] = ()
    kinds: Sequence[type] = ()
    classes: Sequence[str] = ()
    multi_label: bool = False
    scores: bool = False
    safe: bool | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of those that every answer has."""
        return _SCORE_COLUMNS if self.scores else _COLUMNS


class Write(Protocol):
    """Writes a row: what is copied, and the answer; `None`: that of an empty text."""

    def __call__(self, kept: Sequence[Any], row: Row | None) -> None: ...


@contextmanager
def output(out: Path | None, layout: Layout) -> Iterator[Write]:
    """A function that writes a row, to stdout or to a file that appears when all is done.

    Args:
        out: the file; its ending says in which form.
        layout: of the rows.

    Raises:
        CommandError: the file cannot be written.
    """
    if out is None:
        yield _table_writer(_tsv_writer(sys.stdout), layout, safe=bool(layout.safe))
        return
    suffix = out.suffix.lower()
    try:
        if suffix in PARQUET:
            with bytes_written_atomically(out) as raw, _parquet_writer(raw, layout) as write:
                yield write
            return
        with file_written_atomically(out) as file:
            if suffix in JSON_LINES:
                yield _json_writer(file, layout)
            elif suffix == ".csv":
                write_row = csv.writer(file, lineterminator="\n").writerow
                yield _table_writer(write_row, layout, safe=layout.safe is not False)
            else:
                yield _table_writer(_tsv_writer(file), layout, safe=bool(layout.safe))
    except OutputInUseError as error:
        raise CommandError(f"--out {out}: {error}") from error
    except OSError as error:
        raise CommandError(f"--out {out}: cannot be written ({error.strerror})") from error


def _tsv_writer(file: TextIO) -> Callable[[Sequence[str]], Any]:
    # A table has no quoting: a tab or a line break in a name would make another column or row.
    return lambda cells: file.write("\t".join(" ".join(cell.split()) for cell in cells) + "\n")


def _table_writer(write_row: Callable[[Sequence[str]], Any], layout: Layout, *, safe: bool) -> Write:
    answer = [*layout.columns, *(f"probability of {name}" for name in layout.classes)]
    write_row([*layout.kept, *answer])

    def marked(text: str, wanted: bool) -> str:
        return f"'{text}" if wanted and text.startswith(_FORMULA) else text

    def write(kept: Sequence[Any], row: Row | None) -> None:
        # An id such as -7 stays what it is, unless asked for otherwise.
        cells = [marked(_cell(value), layout.safe is True and isinstance(value, str)) for value in kept]
        if row is None:
            write_row([*cells, *[""] * len(answer)])
            return
        write_row(
            [
                *cells,
                *([] if layout.scores else [marked(_label(row, layout), safe)]),
                SEPARATOR.join(f"{x:.7g}" if layout.scores else f"{x:.6f}" for x in row.probabilities),
                f"{row.uncertainty:.6f}",
                str(row.exit_layer),
                *(f"{x:.6f}" for x in row.every),
            ]
        )

    return write


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def _label(row: Row, layout: Layout) -> str:
    return join_labels(row.labels) if layout.multi_label else row.labels[0]


def _json_writer(file: TextIO, layout: Layout) -> Write:
    def write(kept: Sequence[Any], row: Row | None) -> None:
        record: dict[str, Any] = dict(zip(layout.kept, map(_for_json, kept), strict=True))
        record |= dict.fromkeys(layout.columns)
        if row is not None:
            probabilities = [_for_json(x) for x in row.probabilities]
            probability = probabilities if layout.multi_label else probabilities[0]
            label = () if layout.scores else (_label(row, layout),)
            answer = (*label, probability, _for_json(row.uncertainty), row.exit_layer)
            record |= dict(zip(layout.columns, answer, strict=True))
        if layout.classes:
            every = None if row is None else dict(zip(layout.classes, map(_for_json, row.every), strict=True))
            record["probabilities"] = every
        file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")

    return write


def _for_json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no NaN


@contextmanager
def _parquet_writer(file: BinaryIO, layout: Layout) -> Iterator[Write]:
    """Labels and their probabilities are lists of a multi-label model; kept columns have the type of their values."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise CommandError("writing .parquet needs pyarrow; pip install pyarrow, or name another ending") from error
    several = pyarrow.list_ if layout.multi_label else lambda kind: kind
    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema(
        [
            *((name, kinds.get(kind, pyarrow.string())) for name, kind in zip(layout.kept, layout.kinds, strict=True)),
            *([] if layout.scores else [("label", several(pyarrow.string()))]),
            ("score" if layout.scores else "probability", several(pyarrow.float64())),
            ("uncertainty", pyarrow.float64()),
            ("exit_layer", pyarrow.int32()),
            *((f"probability of {name}", pyarrow.float64()) for name in layout.classes),
        ]
    )
    waiting: list[list[Any]] = []

    def flush() -> None:
        columns = zip(*waiting, strict=True) if waiting else [[] for _ in schema]
        arrays = [pyarrow.array(list(column), field.type) for column, field in zip(columns, schema, strict=True)]
        writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
        waiting.clear()

    def write(kept: Sequence[Any], row: Row | None) -> None:
        values = [
            value if value is None or kind in kinds else str(value)
            for value, kind in zip(kept, layout.kinds, strict=True)
        ]
        if row is None:
            values += [None] * (len(layout.columns) + len(layout.classes))
        elif layout.multi_label:
            values += [row.labels, row.probabilities, row.uncertainty, row.exit_layer, *row.every]
        else:
            values += [*row.labels, *row.probabilities, row.uncertainty, row.exit_layer, *row.every]
        waiting.append(values)
        if len(waiting) == _ROWS_AT_ONCE:
            flush()

    with parquet.ParquetWriter(file, schema) as writer:
        yield write
        flush()

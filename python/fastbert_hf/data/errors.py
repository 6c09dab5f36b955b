"""What is wrong with a file or data set, where, and what helps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

_LONGEST_VALUE = 80
_MOST_NAMES = 20


class DataFileError(ValueError):
    """A file or data set that cannot be used; the message is one line with the file, the line and the remedy."""


class EmptyTextError(DataFileError):
    """A row whose text, or whose second text, is empty or null."""


class BadRowsError(DataFileError):
    """Rows that cannot be used, all of them.

    Args:
        errors: what is wrong with each, in order.
        remedy: for some or all of them.

    Attributes:
        lines: a line for each of several, the first twenty of them, for a report below the message.
    """

    def __init__(self, errors: Sequence[DataFileError], remedy: str) -> None:
        if len(errors) == 1:
            super().__init__(f"{errors[0]}; {remedy}" if remedy else str(errors[0]))
            self.lines: list[str] = []
            return
        super().__init__(f"{len(errors):,} rows cannot be used{f'; {remedy}' if remedy else ''}:")
        rest = len(errors) - _MOST_NAMES
        self.lines = [*map(str, errors[:_MOST_NAMES]), *([f"and {rest:,} more"] if rest > 0 else [])]


class Place(NamedTuple):
    """A line of a file, a row of a data set (both counted from 1), or the whole.

    Attributes:
        source: path of the file, or name of the data set.
        number: of the line or row; `None` is the whole.
        unit: what is counted, "line" or "row".
    """

    source: str
    number: int | None = None
    unit: str = "line"

    def __str__(self) -> str:
        source = "standard input" if self.source == "-" else self.source
        return source if self.number is None else f"{source}, {self.unit} {self.number}"

    def error(self, problem: str, remedy: str, kind: type[DataFileError] = DataFileError) -> DataFileError:
        """Return the error of `kind` to raise for this place, on one line."""
        return kind(f"{self}: {' '.join(problem.split())}; {' '.join(remedy.split())}")


def quoted(value: Any) -> str:
    """`value` for a message, cut off when it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first twenty of them."""
    iterator = iter(names)
    shown = list(islice(iterator, _MOST_NAMES))
    rest = sum(1 for _ in iterator)
    return ", ".join([*shown, f"and {rest} more"] if rest else shown) or "none"

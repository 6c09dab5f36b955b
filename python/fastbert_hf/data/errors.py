"""What is wrong with a file or data set, where, and what helps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

_LONGEST_VALUE = 80
_MOST_NAMES = 20


class DataFileError(ValueError):
    """A file or data set that cannot be used; the message is one line with the file, the line and the remedy.

    That of `BadRowsError` has such a line for each of several rows.
    """


class EmptyTextError(DataFileError):
    """A row whose text, or whose second text, is empty or null."""


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


_spellings: list[Callable[[str], str | None]] = [str]  # of arguments; the last one holds


def argument(name: str) -> str | None:
    """Return an argument of the functions that read, for a message, as the caller gives it; `None`: it cannot."""
    return _spellings[-1](name)


@contextmanager
def arguments_spelt(spelling: Callable[[str], str | None]) -> Iterator[None]:
    """Let messages of the block call arguments what `spelling` returns for their names, or not mention them."""
    _spellings.append(spelling)
    try:
        yield
    finally:
        _spellings.pop()

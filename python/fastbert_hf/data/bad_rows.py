"""Rows that cannot be used: collected, and told all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from fastbert_hf.data.errors import DataFileError, EmptyTextError

_MOST_TOLD = 20
FIRST_ROWS = 1000  # that are looked at before anything else is done
MOST_ROWS = 100_000  # that are looked at where there are faults among these, for a whole report within about a second

Found = TypeVar("Found")


class BadRowsError(DataFileError):
    """Several rows that cannot be used.

    Args:
        headline: how many they are.
        lines: what is wrong with each of them, or with the first.

    Attributes:
        headline: as given, for a report that shows `lines` below it.
        lines: as given.
    """

    def __init__(self, headline: str, lines: list[str]) -> None:
        super().__init__("\n  ".join([f"{headline}:", *lines]))
        self.headline = f"{headline}:"
        self.lines = lines


class BadRows:
    """Rows that cannot be used: the first twenty, and how many there are.

    Attributes:
        number: of all that were added.
        has_empty_texts: some of them have an empty text.
    """

    def __init__(self) -> None:
        self.number = 0
        self.has_empty_texts = False
        self._first: list[DataFileError] = []

    def add(self, error: DataFileError) -> None:
        """Take in what is wrong with the next one."""
        self.number += 1
        self.has_empty_texts |= isinstance(error, EmptyTextError)
        if len(self._first) < _MOST_TOLD:
            self._first.append(error)

    def check(self, remedy: str = "", among: int | None = None) -> None:
        """Raise the only error there is, or a `BadRowsError` of several; nothing where there is none.

        Args:
            remedy: for some or all of them.
            among: how many rows were looked at, where there may be more; `None`: all that there are.
        """
        remedy = f"; {remedy}" if remedy else ""
        if self.number == 1:
            (error,) = self._first
            raise type(error)(f"{error}{remedy}") if remedy else error
        if self.number:
            of = "" if among is None else f" of the first {among:,}"
            rest = self.number - len(self._first)
            lines = [*map(str, self._first), *([f"and {rest:,} more"] if rest else [])]
            raise BadRowsError(f"{self.number:,}{of} rows cannot be used{remedy}", lines)


def usable(found: Iterable[Found | DataFileError]) -> Iterator[Found]:
    """Yield what was found up to the first row that cannot be used; raise what is wrong with that and those behind."""
    faults = BadRows()
    try:
        for row in found:
            if isinstance(row, DataFileError):
                faults.add(row)
            elif not faults.number:
                yield row
    except DataFileError as error:  # behind which nothing can be read
        faults.add(error)
    faults.check()


def look_at_first(found: Iterable[Any]) -> int:
    """Return how many of the first rows there are; raise what is wrong with them, and with many more."""
    faults, number, among = BadRows(), 0, None
    try:
        for number, row in enumerate(found, start=1):
            if isinstance(row, DataFileError):
                faults.add(row)
            if number >= (MOST_ROWS if faults.number else FIRST_ROWS):
                among = number
                break
    except DataFileError as error:  # behind which nothing can be read
        faults.add(error)
    faults.check(among=among)
    return number

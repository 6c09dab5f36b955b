"""What the reader of every format returns: rows of chosen columns, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastbert_hf.data.errors import DataFileError, Place

# From the columns there are, the place that names them and a remedy for a missing one, to the columns wanted.
Choose = Callable[[Sequence[str], Place, str], list[str]]
# The values of the columns wanted; `None`: a blank line; an error: a line that cannot be used, behind which it goes on.
Row = list[Any] | DataFileError | None
Rows = Iterator[tuple[Place, Row]]


@dataclass(frozen=True)
class Records:
    """Rows of a file or data set, not read yet.

    Attributes:
        whole: the file or data set, for errors that are about no single row.
        rows: reads; given a function that chooses columns, yields the place and the values of every row. The function
            is called once, and in JSON lines again whenever a line has other keys than the one before.
        class_names: for columns that hold numbers and know their names, the names by number.
        joined_labels: several labels stand in one field, with `|` between them.
    """

    whole: Place
    rows: Callable[[Choose], Rows]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    joined_labels: bool = False

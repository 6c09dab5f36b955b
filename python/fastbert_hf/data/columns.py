"""Which columns hold the text, the second text and the label."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from fastbert_hf.data.errors import Place, argument, listed

# The first that is there is taken. Behind our own names those of GLUE; pairs stand before what they have in common
# with single texts, so that no second text is left out.
_TEXT_COLUMNS: tuple[tuple[str, str | None], ...] = (
    ("text", None),
    ("text_a", "text_b"),
    ("text_a", None),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("sentence", None),
)


class Columns(NamedTuple):
    """Names of the columns of the text, of the second text and of the label, where there are any."""

    text: str
    pair: str | None
    label: str | None


def text_column_names(columns: Collection[str]) -> tuple[str, str | None] | None:
    """The columns of the text and of the second text, if any: the first of these of which all are there.

    `text`; `text_a` and `text_b`; `text_a`; `sentence1` and `sentence2`; `question1` and `question2`; `premise` and
    `hypothesis`; `question` and `sentence`; `sentence`. `None`: none of them.
    """
    for text, pair in _TEXT_COLUMNS:
        found, second = _find(text, columns), None if pair is None else _find(pair, columns)
        if found is not None and (pair is None or second is not None):
            return found, second
    return None


class ColumnChoice:
    """Chooses columns by the names that a user gave, or else by the usual names; upper and lower case are the same.

    Args:
        text_column: of the text; `None` is as in `text_column_names`, then with the second text.
        pair_column: of the second text, if `text_column` is given.
        label_columns: of the label; the first that is there. Empty: labels are not wanted.
        keep: further columns, which may be among these.

    Raises:
        ValueError: `pair_column` without `text_column`.
    """

    def __init__(
        self, text_column: str | None, pair_column: str | None, label_columns: Sequence[str], keep: Sequence[str] = ()
    ) -> None:
        if pair_column is not None and text_column is None:
            raise ValueError("pair_column goes with text_column: one names the first text, the other the second")
        self._text_column = text_column
        self._pair_column = pair_column
        self._label_columns = label_columns
        self._keep = keep
        self.chosen: Columns | None = None

    def __call__(self, columns: Sequence[str], place: Place, remedy: str) -> list[str]:
        """Names of the columns of the text, of the second text and of the label, without those that are not wanted, and
        of those to keep.

        Raises:
            DataFileError: a column is missing, or the choice differs from that of the lines before.
        """
        label = self._choose_label(columns, place, remedy)
        text, pair = self._choose_texts(columns, place, remedy)
        chosen = Columns(text, pair, label)
        names = [name for name in chosen if name is not None]
        for name in names:
            if names.count(name) > 1:
                raise place.error(f"column {name} is chosen twice", "text, second text and label need a column each")
            if columns.count(name) > 1:
                raise place.error(f"column {name} is there twice", "give each its own name")
        if self.chosen is not None and chosen != self.chosen:
            before = listed(name for name in self.chosen if name is not None)
            problem = f"would be read from {listed(names)}, but the lines before from {before}"
            raise place.error(problem, "give every line the same keys, or say which hold the texts and the label")
        self.chosen = chosen
        return [*names, *(_named(name, columns, place) for name in self._keep)]

    def _choose_texts(self, columns: Sequence[str], place: Place, remedy: str) -> tuple[str, str | None]:
        if self._text_column is None:
            names = text_column_names(columns)
            if names is None:
                raise place.error(
                    f"no column text (or text_a and text_b) among: {listed(columns)}",
                    _or_named(remedy, "text", "text_column"),
                )
            return names
        pair = self._pair_column
        return (
            _named(self._text_column, columns, place),
            None if pair is None else _named(pair, columns, place),
        )

    def _choose_label(self, columns: Sequence[str], place: Place, remedy: str) -> str | None:
        if not self._label_columns:
            return None
        for name in self._label_columns:
            found = _find(name, columns)
            if found is not None:
                return found
        raise place.error(
            f"no column {' or '.join(self._label_columns)} among: {listed(columns)}",
            _or_named(remedy, "label", "label_column"),
        )


def _or_named(remedy: str, what: str, name: str) -> str:
    """`remedy`, and the argument `name` that says which column it is, where the caller can give it."""
    given = argument(name)
    return remedy if given is None else f"{remedy}; if the {what} has another name, say so with {given}"


def _named(name: str, columns: Sequence[str], place: Place) -> str:
    found = _find(name, columns)
    if found is None:
        raise place.error(f"no column {name} among: {listed(columns)}", "check the name of the column")
    return found


def _find(name: str, columns: Collection[str]) -> str | None:
    """The column of that name, or the only one that differs from it in case and outer blanks."""
    if name in columns:
        return name
    alike = [column for column in columns if column.strip().lower() == name.strip().lower()]
    return alike[0] if len(alike) == 1 else None

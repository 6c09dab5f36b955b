"""From what stands in the label column to names and ids of classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from fastbert_hf.data.errors import Place, argument, listed, quoted

SEPARATOR = "|"


def label_name(place: Place, column: str, value: Any, class_names: Sequence[str] | None) -> str:
    """Name of the class that `value` stands for.

    Args:
        place: of the value, for errors.
        column: that the value is from.
        value: a string, an integer, a number without a fraction, or a boolean, whose name is True or False.
        class_names: names of the classes, of which an integer is the number; `None`: integers are names.

    Raises:
        DataFileError: none of these, or empty.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) and class_names is None:
        return str(value)  # as tables have it
    if isinstance(value, int) and not isinstance(value, bool):
        if class_names is None:
            return str(value)
        if 0 <= value < len(class_names):
            return class_names[value]
        if value == -1:
            raise place.error(f"{column} is -1, which means unknown", "use the labelled part of the data")
        raise place.error(f"{column} is {value}, but there are {len(class_names)} classes", "mend the label")
    if value is None:
        raise place.error(f"{column} is null", "fill it in or delete the sample")
    if not isinstance(value, str):
        several = argument("multi_label") if isinstance(value, list) else None
        problem = f"{column} is {quoted(value)}, neither an integer nor a string"
        raise place.error(problem, "write one or the other" + (f"; several labels need {several}" if several else ""))
    return clean(place, column, value)


def label_list(place: Place, column: str, value: Any, class_names: Sequence[str] | None, joined: bool) -> list[str]:
    """Names of the classes that `value`, a list of what `label_name` takes, stands for; possibly none.

    Args:
        joined: `value` is a string instead, as `join_labels` makes it; an empty string is no label.

    Raises:
        DataFileError: no list, an item that `label_name` refuses, or one label twice.
    """
    if joined:
        value = split_labels(value) if value.strip() else []
    if value is None:
        raise place.error(f"{column} is null", "write an empty list for no label")
    if not isinstance(value, list):
        raise place.error(f"{column} is {quoted(value)}, not a list of labels", "write a list, empty for no label")
    names = [label_name(place, column, item, class_names) for item in value]
    for name in names:
        if names.count(name) > 1:
            raise place.error(f"{column} has {quoted(name)} twice", "name every label once")
    return names


def join_labels(names: Iterable[str]) -> str:
    r"""Return labels as one field of a table, with `|` between them; in a name, `|` is `\|` and `\` is `\\`."""
    return SEPARATOR.join(re.sub(r"([\\|])", r"\\\1", name) for name in names)


def split_labels(field: str) -> list[str]:
    """Return the labels that `join_labels` joined."""
    parts = re.split(r"(\\.)|\|", field)  # between labels the group is None
    labels = [""]
    for text, escaped in zip(parts[::2], [*parts[1::2], ""], strict=True):
        labels[-1] += text
        if escaped is None:
            labels.append("")
        elif escaped:
            labels[-1] += escaped[1] if escaped[1] in ("\\", SEPARATOR) else escaped
    return labels


def without_fractions(names: Collection[str]) -> dict[str, str]:
    """Return for every label its name, where `1.0` of a column of whole numbers is `1`.

    pandas writes integers so when a value of the column was missing. A column with a label that is no whole number is
    left as it is.
    """
    if all(re.fullmatch(r"[+-]?[0-9]+(\.0+)?", name) for name in names):
        return {name: name.partition(".")[0] for name in names}
    return {name: name for name in names}


def check_known(place: Place, names: Collection[str], label_names: Collection[str]) -> None:
    """Raise DataFileError for the first of `names` that is not in `label_names`."""
    for name in names:
        if name not in label_names:
            remedy = f"use one of the training labels ({listed(label_names)})"
            raise place.error(f"unknown label {quoted(name)}", remedy)


def sort_labels(labels: Collection[str]) -> list[str]:
    """In the order of their ids: as numbers when every label is an integer."""
    if all(re.fullmatch(r"[+-]?[0-9]+", label) for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def clean(place: Place, column: str, value: str) -> str:
    """`value` without outer blanks; raises DataFileError if nothing is left or it is no text that can be saved."""
    value = value.strip()
    if not value:
        raise place.error(f"empty {column}", "fill it in or delete the line")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise place.error(
            f"half of a character (a lone \\u escape) in {column}", "delete or mend the character"
        ) from error
    return value

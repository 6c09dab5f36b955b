"""Texts in memory, with labels or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

Text = str | tuple[str, str]  # a text, or a pair of texts


@dataclass(frozen=True)
class TextData:
    """Texts, or pairs of texts.

    Attributes:
        texts: first (or only) text of every sample.
        pairs: second text of every sample, or `None` for single texts.

    Raises:
        TypeError: something else than text.
        ValueError: lists of different lengths.
    """

    texts: list[str]
    pairs: list[str] | None

    def __post_init__(self) -> None:
        for name, column in (("texts", self.texts), ("pairs", self.pairs)):
            if column is not None:
                object.__setattr__(self, name, _strings(name, column))
        if self.pairs is not None and len(self.pairs) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts but {len(self.pairs)} second texts; give every text its own")

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class ClassificationData(TextData):
    """Labelled texts.

    Attributes:
        label_ids: class of every sample, an index into `label_names`; where `multi_label`, the list of its classes,
            ascending and possibly empty. Given in any container (NumPy, pandas, a tensor), a list afterwards.
        label_names: name of every class.
        multi_label: a sample may have any number of classes.

    Raises:
        ValueError: also labels that are no whole numbers, or not those of classes, and names that are not distinct
            text.
    """

    label_ids: list[Any]  # int or list[int], all alike
    label_names: list[str]
    multi_label: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.label_ids) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts but {len(self.label_ids)} labels; give every text its own")
        names = list(self.label_names)
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"label_names must be text, got {names}")
        if len(set(names)) < len(names):
            raise ValueError(f"label_names has a name twice: {', '.join(names)}; name every class once")
        object.__setattr__(self, "label_names", names)
        object.__setattr__(self, "label_ids", [self._checked(*pair) for pair in enumerate(plain_list(self.label_ids))])

    def _checked(self, position: int, label: Any) -> Any:
        """Return the label of the sample at `position` as an integer, or as a list of them."""
        if not self.multi_label:
            return self._class_id(position, label)
        if isinstance(label, str) or not hasattr(label, "__iter__"):
            raise ValueError(f"the label of text {position} is {label!r}; a multi-label text has a list of class ids")
        ids = [self._class_id(position, item) for item in plain_list(label)]
        if len(set(ids)) < len(ids):
            raise ValueError(f"the label of text {position} names a class twice: {ids}")
        return sorted(ids)

    def _class_id(self, position: int, label: Any) -> int:
        index = int(label) if isinstance(label, float) and label.is_integer() else label
        if isinstance(index, bool) or not isinstance(index, int):
            raise ValueError(f"the label of text {position} is {label!r}, not a class id (a whole number)")
        if not 0 <= index < len(self.label_names):
            raise ValueError(
                f"the label of text {position} is {index}, but the {len(self.label_names)} classes are 0 to "
                f"{len(self.label_names) - 1}; number them from 0"
            )
        return index

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by id, as `FastBertConfig` takes them."""
        return dict(enumerate(self.label_names))


def _strings(name: str, column: Any) -> list[str]:
    if isinstance(column, str):
        raise TypeError(f"{name} is a single string; give a list of texts")
    values = list(column)
    for position, text in enumerate(values):
        if not isinstance(text, str):
            raise TypeError(f"{name} has {text!r} at {position}, which is no string; leave it out or fill it in")
    return values


def plain_list(values: Any) -> list[Any]:
    """Return what a container holds as Python's own numbers, which NumPy, pandas and tensors make by `tolist`."""
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    return [value.tolist() if hasattr(value, "tolist") else value for value in values]


Data = TypeVar("Data", bound=TextData)


def select_texts(data: Data, positions: Sequence[int]) -> Data:
    """Return the samples of `data` at `positions`, in that order."""
    columns = {
        name: [values[position] for position in positions]
        for name in ("texts", "pairs", "label_ids")
        if (values := getattr(data, name, None)) is not None
    }
    return replace(data, **columns)


def join_texts(*parts: TextData) -> TextData:
    """All texts of `parts` in order, without labels: labelled and unlabelled data together, for distillation.

    Raises:
        ValueError: some parts are pairs of texts and others are not.
    """
    filled = [part for part in parts if len(part)]
    if len({part.pairs is None for part in filled}) > 1:
        kinds = ", ".join("single texts" if part.pairs is None else "pairs" for part in filled)
        raise ValueError(f"cannot join pairs of texts and single texts ({kinds}); use one kind of text")
    texts = [text for part in filled for text in part.texts]
    if not filled or filled[0].pairs is None:
        return TextData(texts, None)
    return TextData(texts, [pair for part in filled for pair in part.pairs or ()])

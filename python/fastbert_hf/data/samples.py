"""Texts in memory, with labels or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Text = str | tuple[str, str]  # a text, or a pair of texts


@dataclass(frozen=True)
class TextData:
    """Texts, or pairs of texts.

    Attributes:
        texts: first (or only) text of every sample.
        pairs: second text of every sample, or `None` for single texts.

    Raises:
        ValueError: lists of different lengths.
    """

    texts: list[str]
    pairs: list[str] | None

    def __post_init__(self) -> None:
        if self.pairs is not None and len(self.pairs) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts but {len(self.pairs)} second texts; give every text its own")

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class ClassificationData(TextData):
    """Labelled texts.

    Attributes:
        label_ids: class of every sample, an index into `label_names`; where `multi_label`, the list of its classes,
            ascending and possibly empty.
        label_names: name of every class.
        multi_label: a sample may have any number of classes.
    """

    label_ids: list[Any]  # int or list[int], all alike
    label_names: list[str]
    multi_label: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.label_ids) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts but {len(self.label_ids)} labels; give every text its own")

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by id, as `FastBertConfig` takes them."""
        return dict(enumerate(self.label_names))


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

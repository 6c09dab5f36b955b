"""The baseline without a network: TF-IDF of words or characters, and logistic regression (scikit-learn, extra
`demo`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastbert_hf.data import ClassificationData, TextData

Unit = Literal["words", "characters"]

# Scripts that write no space between words: first and last character of their blocks.
_WITHOUT_SPACES = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF))
_LOOKED_AT = 1000  # texts whose script is looked at
# From so many texts on, what occurs in one of them only is left out.
_MANY_TEXTS = 1000
_LONGEST = {"words": 2, "characters": 3}  # of the sequences that are counted


@dataclass(frozen=True)
class BagAnswers:
    """What a bag of words says of n texts.

    Attributes:
        unit: what it counts.
        trained_on: texts.
        predictions: class ids, [n].
    """

    unit: Unit
    trained_on: int
    predictions: npt.NDArray[np.int64]


@dataclass(frozen=True)
class BagOfWords:
    """A classifier that was trained by `train_bag_of_words`.

    Attributes:
        unit: what it counts.
        trained_on: texts.
        pipeline: of scikit-learn.
    """

    unit: Unit
    trained_on: int
    pipeline: Any

    def predict(self, data: TextData) -> npt.NDArray[np.int64]:
        """Return the class id of every text, [n]."""
        return np.asarray(self.pipeline.predict(_documents(data)), dtype=np.int64)

    def answers(self, data: TextData) -> BagAnswers:
        """Return its answers for all texts."""
        return BagAnswers(self.unit, self.trained_on, self.predict(data))


def train_bag_of_words(data: ClassificationData) -> BagOfWords:
    """Train TF-IDF of words and pairs of words, or of up to three characters in scripts without spaces, with logistic
    regression behind it.

    Args:
        data: labelled texts, each of one class; of a pair both texts count alike.

    Raises:
        ValueError: texts of fewer than two classes, or without any word.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    unit = unit_of(data.texts)
    kind = {"token_pattern": r"(?u)\b\w+\b"} if unit == "words" else {"analyzer": "char"}
    features = TfidfVectorizer(
        **kind,
        ngram_range=(1, _LONGEST[unit]),
        min_df=2 if len(data) >= _MANY_TEXTS else 1,
        sublinear_tf=True,
        dtype=np.float32,
    )
    pipeline = make_pipeline(features, LogisticRegression(C=10.0, max_iter=1000))
    pipeline.fit(_documents(data), data.label_ids)
    return BagOfWords(unit, len(data), pipeline)


def unit_of(texts: Sequence[str]) -> Unit:
    """Return characters where most letters of the first texts belong to scripts that write no spaces, else words."""
    letters = [ord(character) for text in texts[:_LOOKED_AT] for character in text if character.isalpha()]
    without = sum(any(first <= letter <= last for first, last in _WITHOUT_SPACES) for letter in letters)
    return "characters" if 2 * without > len(letters) else "words"


def _documents(data: TextData) -> list[str]:
    if data.pairs is None:
        return data.texts
    return [f"{first}\n{second}" for first, second in zip(data.texts, data.pairs, strict=True)]

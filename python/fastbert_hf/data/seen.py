"""Which texts a model was made with, as a number for each from which no text can be read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastbert_hf.data.samples import TextData
from fastbert_hf.files import write_atomically

SEEN_FILE = "fastbert_seen_texts.npz"  # beside the weights

_FIELDS = ("trained_on", "chose", "fitted_temperatures")
_LATER_FIELDS = ("fitted_temperatures",)  # which files of older models lack


def text_keys(data: TextData) -> np.ndarray:
    """Return a number for every text or pair of texts, uint64 [texts].

    Texts that differ in upper and lower case and in blanks only have the same one, and labels are not in it.
    """
    return np.fromiter(map(_key, _whole_texts(data)), np.uint64, count=len(data))


class Seen(NamedTuple):
    """For every text of some data, bool [texts], whether a model has seen it.

    Attributes:
        trained_on: weights were trained on it.
        chose: it chose the best epoch, and no weights were trained on it.
        fitted_temperatures: the temperatures in the weights were fitted to it, and it is neither of those before.
    """

    trained_on: np.ndarray
    chose: np.ndarray
    fitted_temperatures: np.ndarray

    @property
    def any(self) -> np.ndarray:
        """Any of these, bool [texts]."""
        return self.trained_on | self.chose | self.fitted_temperatures

    def in_words(self) -> str:
        """Return how many texts were seen, of how many, and how."""
        ways = (
            (self.trained_on, "trained on"),
            (self.chose, "chose the epochs"),
            (self.fitted_temperatures, "fitted the temperatures"),
        )
        parts = [f"{int(which.sum()):,} {how}" for which, how in ways if which.any()]
        return f"{int(self.any.sum()):,} of {len(self.any):,} texts were seen in training ({', '.join(parts)})"


def _no_keys() -> np.ndarray:
    return np.empty(0, np.uint64)


@dataclass(frozen=True, eq=False)
class SeenTexts:
    """The texts that a model has seen: `text_keys` of each, sorted.

    Attributes:
        trained_on: of texts that weights were trained on, with or without labels, uint64.
        chose: of those that the best epoch was chosen by, uint64.
        fitted_temperatures: of those that the temperatures in the weights were fitted to, uint64.
    """

    trained_on: np.ndarray = field(default_factory=_no_keys)
    chose: np.ndarray = field(default_factory=_no_keys)
    fitted_temperatures: np.ndarray = field(default_factory=_no_keys)

    def with_run(self, data: TextData, dev: TextData | None) -> SeenTexts:
        """Return these texts and those of a training step.

        Args:
            data: texts that it trains on.
            dev: texts that choose its best epoch, if there are any.
        """
        chose = self.chose if dev is None else np.union1d(self.chose, text_keys(dev))
        return replace(self, trained_on=np.union1d(self.trained_on, text_keys(data)), chose=chose)

    def with_temperatures(self, data: TextData) -> SeenTexts:
        """Return these texts and `data`, to which temperatures in the weights were fitted."""
        return replace(self, fitted_temperatures=np.union1d(self.fitted_temperatures, text_keys(data)))

    def among(self, data: TextData) -> Seen:
        """Return which texts of `data` are among these."""
        return self.among_keys(text_keys(data))

    def among_keys(self, keys: np.ndarray) -> Seen:
        """Return the same of texts whose `text_keys` are `keys`, uint64 [texts]."""
        trained_on, chose, fitted = (np.isin(keys, getattr(self, name)) for name in _FIELDS)
        return Seen(trained_on, chose & ~trained_on, fitted & ~trained_on & ~chose)

    def save(self, folder: Path) -> None:
        """Write `SEEN_FILE` into `folder`, or take away the one of another model where there are none."""
        if not any(len(getattr(self, name)) for name in _FIELDS):
            (folder / SEEN_FILE).unlink(missing_ok=True)
            return
        file = io.BytesIO()
        np.savez(file, **{name: getattr(self, name) for name in _FIELDS})
        write_atomically(folder / SEEN_FILE, file.getvalue())

    @classmethod
    def load(cls, file: Path) -> SeenTexts:
        """Return what `save` wrote.

        Raises:
            ValueError: the file is not one that `save` wrote.
        """
        try:
            with np.load(file, allow_pickle=False) as arrays:
                there = [name for name in _FIELDS if name in arrays or name not in _LATER_FIELDS]
                return cls(**{name: _checked(arrays[name]) for name in there})
        except Exception as error:  # NumPy and zipfile raise anything for a broken file
            raise ValueError(
                f"{file}: cannot be read ({error}); fetch the model again, or delete the file, and with it the check "
                "that no guarantee rests on texts of the training"
            ) from error


def _checked(keys: Any) -> np.ndarray:
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise ValueError(f"holds {keys.dtype} {list(keys.shape)}, not a list of uint64")
    return np.unique(keys)


def _whole_texts(data: TextData) -> Iterator[str]:
    if data.pairs is None:
        yield from data.texts
    else:
        yield from map("\0".join, zip(data.texts, data.pairs, strict=True))


def _key(text: str) -> int:
    plain = "\0".join(" ".join(part.split()).casefold() for part in text.split("\0"))
    return int.from_bytes(hashlib.blake2b(plain.encode(errors="surrogatepass"), digest_size=8).digest(), "little")

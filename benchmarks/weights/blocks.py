"""Weights in blocks of 32 with 4 bits each, as multilingual-e5-small is packed."""

from __future__ import annotations

import numpy as np

BLOCK = 32
# A block: its scale, and 16 bytes with weight j in the low and weight j + 16 in the high half, 8 added to each.
LAYOUT = np.dtype([("scale", "<f2"), ("halves", "u1", BLOCK // 2)])


def dequantise(data: bytes | memoryview, rows: int, columns: int, begin: int = 0) -> np.ndarray:
    """Return the matrix of weights, float32 [rows, columns].

    Args:
        data: holds the blocks of row after row.
        rows: of the matrix.
        columns: a multiple of 32, so that a row is whole blocks.
        begin: of the first block, in bytes.

    Raises:
        ValueError: rows are not whole blocks, or the data end before the matrix does.
    """
    if columns % BLOCK:
        raise ValueError(f"rows of {columns} weights are not whole blocks of {BLOCK}")
    blocks = np.frombuffer(data, LAYOUT, rows * columns // BLOCK, begin)
    low, high = blocks["halves"] & 15, blocks["halves"] >> 4
    steps = np.concatenate([low, high], axis=1).astype(np.float32) - 8
    return (steps * blocks["scale"].astype(np.float32)[:, None]).reshape(rows, columns)

"""The types of PTX as numpy sees them, and arithmetic on the 16-bit formats."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Format(NamedTuple):
    """A type of PTX: the dtype of its values; those of bf16 and of packed pairs are their bits."""

    dtype: np.dtype
    size: int
    is_signed: bool


def _format(dtype: type, is_signed: bool = False) -> Format:
    return Format(np.dtype(dtype), np.dtype(dtype).itemsize, is_signed)


FORMATS: dict[str, Format] = {
    "pred": _format(np.bool_),
    **{f"{letter}{bits}": _format(getattr(np, f"uint{bits}")) for letter in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": _format(getattr(np, f"int{bits}"), is_signed=True) for bits in (8, 16, 32, 64)},
    "f16": _format(np.float16),
    "bf16": _format(np.uint16),
    "f32": _format(np.float32),
    "f64": _format(np.float64),
    "bf16x2": _format(np.uint32),
    "f16x2": _format(np.uint32),
}
INTEGERS = ("s16", "u16", "s32", "u32", "s64", "u64")


def integer(size: int, is_signed: bool) -> np.dtype:
    """Return the dtype of integers of `size` bytes."""
    return np.dtype(f"{'i' if is_signed else 'u'}{size}")


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(values: np.ndarray) -> np.ndarray:
    """Return the bits, rounded to nearest even; a NaN becomes the one that PTX names."""
    values = np.ascontiguousarray(values, np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = ((bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def pairs_to_f32(bits: np.ndarray, kind: str) -> np.ndarray:
    """Return the two elements of each packed pair [...] of bf16 or f16 as [..., 2] float32."""
    halves = np.ascontiguousarray(bits).view(np.uint16).reshape(*bits.shape, 2)
    return bf16_to_f32(halves) if kind == "bf16" else halves.view(np.float16).astype(np.float32)

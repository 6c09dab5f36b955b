"""In which numbers an encoder multiplies: a dtype, int8 with some products of its layers in bfloat16, or FP8."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

PRODUCTS = ("qkv", "attention_output", "intermediate", "output")  # of a layer
TANH_GELU = "GELU by tanh"  # in the name of a precision
FP8 = "fp8"  # as `patch` takes it, and the name of the precision


@dataclass(frozen=True)
class MixedInt8:
    """int8, with some products of every layer in bfloat16.

    Attributes:
        bfloat16_products: some of `PRODUCTS`, in their order; neither none of them nor all.
    """

    bfloat16_products: tuple[str, ...]

    def __str__(self) -> str:
        return f"int8 with {' and '.join(self.bfloat16_products)} in bfloat16"

    def int8_share(self, width: int, inner: int) -> float:
        """Return the share of the multiplications that are in int8.

        Args:
            width: hidden size.
            inner: intermediate size.
        """
        work = {"qkv": 3 * width, "attention_output": width, "intermediate": inner, "output": inner}
        return 1 - sum(work[name] for name in self.bfloat16_products) / sum(work.values())


@dataclass(frozen=True)
class TanhGelu:
    """A precision in which GELU by tanh takes the place of the one by the error function.

    Attributes:
        dtype: of the hidden states; None keeps that of the weights.
    """

    dtype: torch.dtype | None

    def __str__(self) -> str:
        return TANH_GELU if self.dtype is None else f"{self.dtype} with {TANH_GELU}"


@dataclass(frozen=True)
class Fp8:
    """Products in float8_e4m3fn, with a scale for each row of both operands."""

    def __str__(self) -> str:
        return FP8


EncoderDtype = torch.dtype | MixedInt8 | TanhGelu | Fp8


def hidden_dtype(dtype: EncoderDtype | None, weights: torch.dtype) -> torch.dtype:
    """Return that of the hidden states for the precision asked for, `dtype`, and that of the model's own weights.

    With products in 8 bits, what lies between them is bfloat16: its rounding is small beside that of the products.
    """
    if isinstance(dtype, TanhGelu):
        dtype = dtype.dtype
    if dtype is None:
        return weights
    return torch.bfloat16 if dtype == torch.int8 or isinstance(dtype, MixedInt8 | Fp8) else dtype


def int8_products(dtype: EncoderDtype | None) -> tuple[str, ...]:
    """Return the products of a layer that are in int8."""
    if isinstance(dtype, MixedInt8):
        return tuple(name for name in PRODUCTS if name not in dtype.bfloat16_products)
    return PRODUCTS if dtype == torch.int8 else ()


def precision_name(hidden: torch.dtype, int8: Collection[str]) -> str:
    """Return the precision of an encoder as people write it, and calibrated settings name it.

    Args:
        hidden: dtype of the hidden states.
        int8: products that are in int8, of `PRODUCTS`.
    """
    if not int8:
        return str(hidden).removeprefix("torch.")
    others = tuple(name for name in PRODUCTS if name not in int8)
    return str(MixedInt8(others)) if others else "int8"


def with_bfloat16_products(dtype: torch.dtype | str | None, products: Collection[str]) -> EncoderDtype:
    """Return int8 with these products in bfloat16.

    Args:
        dtype: that `patch` was given, `torch.int8`.
        products: some of `PRODUCTS`, at least one.

    Raises:
        ValueError: another dtype, no collection, an unknown name, or all products.
    """
    if isinstance(products, str):
        raise ValueError(f"bfloat16_products must be a collection of names, as ({products!r},), not {products!r}")
    if dtype != torch.int8:
        raise ValueError(
            f"bfloat16_products are what dtype=torch.int8 leaves in bfloat16; leave them out with dtype={dtype!r}"
        )
    if unknown := sorted(set(products) - set(PRODUCTS)):
        raise ValueError(f"unknown bfloat16_products {unknown}; a layer has {', '.join(PRODUCTS)}")
    chosen = tuple(name for name in PRODUCTS if name in products)
    if chosen == PRODUCTS:
        raise ValueError("bfloat16_products are all products of a layer; take dtype=torch.bfloat16")
    return MixedInt8(chosen)


def with_tanh_gelu(dtype: torch.dtype | str | None) -> TanhGelu:
    """Return a precision with GELU by tanh.

    Args:
        dtype: that `patch` was given.

    Raises:
        ValueError: int8, which GPUs do not have here, "fp8", where GELU is part of no product, or "auto".
    """
    if isinstance(dtype, str) or dtype == torch.int8:
        raise ValueError(f"tanh_gelu goes with a floating point dtype or None, not {dtype!r}; leave it out")
    return TanhGelu(dtype)

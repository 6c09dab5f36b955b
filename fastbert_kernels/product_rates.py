"""How fast this processor multiplies in each precision: measured once, so that what is slower here is not taken
unknown."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from fastbert_kernels import _extension
from fastbert_kernels.measured_once import MeasuredOnce
from fastbert_kernels.ops.packing import product_operand

VARIABLE = "FASTBERT_PRODUCT_RATES"

# A precision is called slower or faster than another one where the rates differ by more than this; of PyTorch's
# products, whose threads wait for each other, by more than the other.
MARGIN, LIBRARY_MARGIN = 1.05, 1.5

_ROUNDS = 7
_LIBRARY_ROWS = 16
# Precision -> what rows and weights are multiplied in, one of the ways that there are.
_WAYS = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "bfloat16 as float32": ("bfloat16", "float32"),
    "int8": ("bfloat16", "int8"),
}


@dataclass(frozen=True)
class ProductRates:
    """What one core reaches in the products of an encoder layer, in GFLOP/s, all work on their rows included.

    Attributes:
        float32: of float32 rows.
        bfloat16: of bfloat16 rows, in the operand below.
        int8: of bfloat16 rows, which are quantised first.
        bfloat16_operand: what bfloat16 rows are multiplied in, "bfloat16" or "float32", whichever is faster.
    """

    float32: float
    bfloat16: float
    int8: float
    bfloat16_operand: str

    def of(self, precision: str) -> float:
        """Return the rate of "float32", "bfloat16" or "int8".

        Raises:
            KeyError: another precision, in which no product was measured.
        """
        return {"float32": self.float32, "bfloat16": self.bfloat16, "int8": self.int8}[precision]

    def mixed(self, int8_share: float) -> float:
        """Return the rate where this share of the multiplications is in int8 and the rest in bfloat16."""
        return 1 / (int8_share / self.int8 + (1 - int8_share) / self.bfloat16)

    def as_dict(self) -> dict[str, float | str]:
        """Return the rates by precision, rounded for people, and under "bfloat16_operand" what that is."""
        rates = {name: round(self.of(name), 1) for name in ("float32", "bfloat16", "int8")}
        return {**rates, "bfloat16_operand": self.bfloat16_operand}

    def __str__(self) -> str:
        float32, bfloat16, int8 = (f"{name} {round(self.of(name), 1):g}" for name in ("float32", "bfloat16", "int8"))
        way = "" if self.bfloat16_operand == "bfloat16" else " (multiplied in float32)"
        return f"{float32}, {bfloat16}{way}, {int8}"


# By the hidden and intermediate size of the layers.
_measured: MeasuredOnce[tuple[int, int], ProductRates] = MeasuredOnce()
_measured_library: MeasuredOnce[tuple[torch.dtype, int, int], float] = MeasuredOnce()


def product_rates(width: int, inner: int) -> ProductRates:
    """Return the rates for layers of hidden size `width` and intermediate size `inner`.

    The first call for a shape takes some milliseconds; the same answer is given from then on, so that all models of one
    process multiply alike. The environment variable FASTBERT_PRODUCT_RATES takes the place of the measurement, as
    "float32=80 bfloat16=75 int8=130".

    Raises:
        ImportError: there is no compiled module.
        ValueError: the environment variable is something else.
    """
    if (given := os.environ.get(VARIABLE)) is not None:
        return _from_variable(given, width, inner)
    return _measured.get((width, inner), lambda: _chosen(measure(width, inner)))


def measure(width: int, inner: int) -> dict[str, float]:
    """Measure the rate of each way that this processor has, in GFLOP/s.

    CPU time of one thread, which other processes do not take; the ways take turns, and the least time of each counts.

    Args:
        width: hidden size.
        inner: intermediate size.
    """
    names = [name for name in _WAYS if name != "bfloat16" or _has_bfloat16_products(width, inner)]
    ways = [_WAYS[name] for name in names]
    of_width, of_inner = (_extension.module().time_products(ways, depth, _ROUNDS) for depth in (width, inner))
    rates = {}
    for name, (prepare, multiply), (prepare_inner, multiply_inner) in zip(names, of_width, of_inner, strict=True):
        # Query, key and value, attention output, intermediate: rows of `width`; output: rows of `inner`.
        seconds = 3 * width * prepare + (4 * width + inner) * width * multiply
        seconds += inner * prepare_inner + inner * width * multiply_inner
        rates[name] = 2e-9 * (4 * width + 2 * inner) * width / seconds
    return rates


def library_slowdown(dtype: torch.dtype, width: int, inner: int) -> float:
    """Return how many times as long as in float32 PyTorch's own product of a layer takes in `dtype` on this processor.

    For layers that the compiled kernels do not have. Measured at the first call, in CPU time of the calling thread, the
    least of several runs of each. Where FASTBERT_PRODUCT_RATES takes the place of measurements it is 1.

    Args:
        dtype: of rows and weights, in floating point.
        width: hidden size.
        inner: intermediate size.
    """
    if os.environ.get(VARIABLE) is not None:
        return 1.0
    return _measured_library.get((dtype, width, inner), lambda: _measure_library(dtype, width, inner))


@torch.inference_mode()
def _measure_library(dtype: torch.dtype, width: int, inner: int) -> float:
    def seconds(of: torch.dtype) -> float:
        rows = torch.ones(_LIBRARY_ROWS, width, dtype=of, device="cpu")
        weight = torch.ones(inner, width, dtype=of, device="cpu")
        taken = []
        for _ in range(1 + _ROUNDS):  # the first makes ready
            begin = time.thread_time()
            F.linear(rows, weight)
            taken.append(time.thread_time() - begin)
        return max(min(taken[1:]), 1e-9)  # some clocks are coarse

    with torch.autocast("cpu", enabled=False):
        return seconds(dtype) / seconds(torch.float32)


def _has_bfloat16_products(width: int, inner: int) -> bool:
    return all(product_operand(torch.bfloat16, depth) == "bfloat16" for depth in (width, inner))


def _chosen(rates: Mapping[str, float]) -> ProductRates:
    """Return the faster way of bfloat16: the processor's own, unless the other one is clearly faster."""
    own, as_float = rates.get("bfloat16", 0.0), rates["bfloat16 as float32"]
    operand = "bfloat16" if own * MARGIN >= as_float else "float32"
    return ProductRates(rates["float32"], own if operand == "bfloat16" else as_float, rates["int8"], operand)


def _from_variable(given: str, width: int, inner: int) -> ProductRates:
    try:
        rates = {name: float(value) for name, value in (part.split("=") for part in given.split())}
        if rates.keys() != {"float32", "bfloat16", "int8"} or not all(0 < rate < math.inf for rate in rates.values()):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{VARIABLE} must give three rates above 0, as 'float32=80 bfloat16=75 int8=130', not {given!r}; unset it "
            "to have them measured"
        ) from None
    own = _has_bfloat16_products(width, inner) and rates["bfloat16"] * MARGIN >= rates["float32"]
    return ProductRates(**rates, bfloat16_operand="bfloat16" if own else "float32")

"""Rows in FP8 with a scale for each, as products on tensor cores take them, and the steps of an encoder layer that
write them, as Triton kernels: rounding alone, bias and activation, and bias, residual and LayerNorm.

A row x becomes q = round(x / s) in float8_e4m3fn and s = max |x_i| / 448 in float32, so that the largest element is the
largest number of the format (Micikevicius et al. 2022, "FP8 formats for deep learning"). An element keeps 4 bits, so it
is off by at most 1/16 of itself, and by at most s / 1024 where it is below s / 64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastbert_kernels.layer_norm import LayerNorm, check_layer_norm
from fastbert_kernels.triton import configs
from fastbert_kernels.triton.elementwise import (
    ACTIVATIONS,
    activated,
    check_contiguous,
    device_guard,
    normalised,
    whole_rows,
)
from fastbert_kernels.triton.kept import KeptKernel

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max  # 448
SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # of a row of zeros, and of numbers too small for another
_LARGEST = tl.constexpr(LARGEST)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)


class Fp8Rows(NamedTuple):
    """A matrix whose rows have a scale each: element [t, i] is values[t, i] * scales[t].

    Attributes:
        values: [T, columns] float8_e4m3fn.
        scales: [T, 1] float32.
    """

    values: Tensor
    scales: Tensor


def round_weight(weight: Tensor) -> Fp8Rows:
    """Round the weight [out, in] of a Linear layer, in PyTorch's own operations, as it is done once per model."""
    wide = weight.float().contiguous()
    scales = (wide.abs().amax(dim=1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)
    return Fp8Rows((wide / scales).clamp(-LARGEST, LARGEST).to(FP8), scales)


def linear(rows: Fp8Rows, weight: Fp8Rows, bias: Tensor | None = None) -> Tensor:
    """Compute rows weight^T + bias by the library's product in FP8.

    On Hopper sums are kept in the tensor core with some 14 bits ("fast accumulation"), whose error is small beside that
    of the operands.

    Args:
        rows: [T, in], T above 0; 16 divides `in`.
        weight: [out, in]; 16 divides `out`.
        bias: [out] bfloat16.

    Returns:
        [T, out] bfloat16.
    """
    return torch._scaled_mm(
        rows.values,
        weight.values.t(),
        scale_a=rows.scales,
        scale_b=weight.scales.t(),
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


@triton.jit
def _store_rows(y, row, place, inside, num_rows, values_ptr, scales_ptr):
    """Round y, float32 [rows, columns] and 0 beside the columns, and store it with the scales of its rows.

    What is no number comes out as NaN: the maximum passes over a NaN or becomes one, and either way the NaN stays; an
    infinity makes a scale of infinity, by which it is divided.
    """
    scale = tl.maximum(tl.max(tl.abs(y), axis=1, keep_dims=True) / _LARGEST, _SMALLEST_SCALE)
    tl.store(values_ptr + place, (y / scale).to(values_ptr.dtype.element_ty), mask=inside)
    tl.store(scales_ptr + row[:, None], scale, mask=(row < num_rows)[:, None])


@triton.jit(do_not_specialize=["num_rows"])
def _round_kernel(
    rows_ptr,
    values_ptr,
    scales_ptr,
    num_rows,
    NUM_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Round BLOCK_ROWS whole rows.

    Memory traffic: every element read once, in 16 bits, and written once, in 8.
    """
    row, _, _, inside, place = whole_rows(num_rows, NUM_COLUMNS, BLOCK_ROWS, BLOCK_COLUMNS)
    x = tl.load(rows_ptr + place, mask=inside, other=0.0).to(tl.float32)
    _store_rows(x, row, place, inside, num_rows, values_ptr, scales_ptr)


@triton.jit(do_not_specialize=["num_rows"])
def _bias_activation_kernel(
    rows_ptr,
    bias_ptr,
    values_ptr,
    scales_ptr,
    num_rows,
    NUM_COLUMNS: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute f(x + bias) on BLOCK_ROWS whole rows, in float32, and round it; f is GELU or ReLU.

    Memory traffic: every element read once, in 16 bits, and written once, in 8; the bias once per BLOCK_ROWS rows, from
    the caches.
    """
    row, column, real, inside, place = whole_rows(num_rows, NUM_COLUMNS, BLOCK_ROWS, BLOCK_COLUMNS)
    bias = tl.load(bias_ptr + column, mask=real, other=0.0).to(tl.float32)
    x = tl.load(rows_ptr + place, mask=inside, other=0.0).to(tl.float32) + bias[None, :]
    _store_rows(tl.where(inside, activated(x, GELU), 0.0), row, place, inside, num_rows, values_ptr, scales_ptr)


@triton.jit(do_not_specialize=["num_rows"])
def _add_layer_norm_kernel(
    rows_ptr,
    bias_ptr,
    residual_ptr,
    weight_ptr,
    norm_bias_ptr,
    values_ptr,
    scales_ptr,
    num_rows,
    epsilon,
    NUM_COLUMNS: tl.constexpr,
    UNBIASED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute LayerNorm(x + bias + residual) on BLOCK_ROWS whole rows in place, as `elementwise.add_layer_norm_` does,
    and beside it the same in FP8, rounded once, from float32.

    Memory traffic: every element of both inputs read once, in 16 bits, one written in 16 and one in 8.
    """
    row, column, real, inside, place = whole_rows(num_rows, NUM_COLUMNS, BLOCK_ROWS, BLOCK_COLUMNS)
    tensors = (rows_ptr, bias_ptr, residual_ptr, weight_ptr, norm_bias_ptr)
    y = normalised(tensors, column, real, inside, place, epsilon, NUM_COLUMNS, UNBIASED)
    tl.store(rows_ptr + place, y, mask=inside)
    _store_rows(tl.where(inside, y, 0.0), row, place, inside, num_rows, values_ptr, scales_ptr)


_round = KeptKernel(_round_kernel)
_bias_activation = KeptKernel(_bias_activation_kernel)
_add_layer_norm = KeptKernel(_add_layer_norm_kernel)


def round_rows(rows: Tensor) -> Fp8Rows:
    """Round rows to FP8.

    Args:
        rows: [T, columns] bfloat16 or another floating point dtype, T above 0.
    """
    rows = rows.contiguous()
    made = _empty(rows)
    _launch(_round, (rows, *made))
    return made


def bias_activation(rows: Tensor, bias: Tensor, activation: str) -> Fp8Rows:
    """Compute f(rows + bias) in float32, and round it to FP8.

    Args:
        rows: [T, I] floating point, contiguous, T above 0.
        bias: [I], floating point, contiguous.
        activation: one of `elementwise.ACTIVATIONS`; "gelu" is the one by the error function.
    """
    check_contiguous(rows)
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
    made = _empty(rows)
    _launch(_bias_activation, (rows, bias, *made), GELU=activation == "gelu")
    return made


def add_layer_norm_(rows: Tensor, bias: Tensor, residual: Tensor, norm: LayerNorm) -> Fp8Rows:
    """Compute rows = LayerNorm(rows + bias + residual) in place, in float32, and return the same rounded to FP8.

    Args:
        rows: [T, H] floating point, contiguous, T above 0.
        bias: as of `elementwise.add_layer_norm_`, and so the others.
    """
    check_contiguous(rows)
    check_layer_norm(norm.kind, int(rows.shape[1]))
    made = _empty(rows)
    tensors = (rows, bias, residual.contiguous(), norm.weight, norm.bias, *made)
    _launch(_add_layer_norm, tensors, (norm.eps,), UNBIASED=norm.kind == "unbiased")
    return made


def _empty(rows: Tensor) -> Fp8Rows:
    return Fp8Rows(torch.empty_like(rows, dtype=FP8), rows.new_empty((rows.shape[0], 1), dtype=torch.float32))


def _launch(kernel: KeptKernel, tensors: tuple[Tensor, ...], numbers: tuple[float, ...] = (), **constants: Any) -> None:
    """Launch a kernel of this file; the first of the tensors are the rows."""
    which = tuple(constants.values())
    if kernel.launch_again(which, tensors, numbers):
        return
    columns = int(tensors[0].shape[1])  # a constant of the kernel; under a tracer it may be a symbol
    config = configs.whole_rows(columns)
    if config is None:
        raise ValueError(f"rows of {columns} elements do not fit into a tile")
    with device_guard(tensors[0]):
        kernel.launch(which, tensors, numbers, {"NUM_COLUMNS": columns, **constants}, config)

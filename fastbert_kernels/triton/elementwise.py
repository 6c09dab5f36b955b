"""The steps of an encoder layer between its matrix products, as two Triton kernels: bias and activation, and bias,
residual and LayerNorm. Both work in place on what the product wrote."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastbert_kernels.layer_norm import LayerNorm, check_layer_norm
from fastbert_kernels.triton import configs
from fastbert_kernels.triton.kept import KeptKernel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ACTIVATIONS = ("gelu", "relu")  # as Transformers calls them


@triton.jit
def gelu(x):
    """Return x Phi(x), the GELU by the error function, to 3e-8 and float32 rounding; NaN stays NaN.

    log2 Phi(-|x|) is smooth: here its minimax fit on |x| < 6.2, weighted with the error that it makes in the result;
    beyond, the polynomial goes on falling. For x < 0 nothing cancels. It takes a third of the instructions of erf
    (11 instead of 32), with which a kernel on 16-bit elements would compute longer than read and write, by count.
    """
    size = tl.abs(x)
    log_tail = ((-2.5779775e-6 * size + 3.6277976e-5) * size - 1.7129329e-4) * size - 1.7347978e-4
    log_tail = ((log_tail * size + 7.1123359e-3) * size - 5.2531317e-2) * size - 0.45919591
    tail = tl.exp2((log_tail * size - 1.1511067) * size - 1.0)
    return x * tl.where(x < 0, tail, 1.0 - tail)


@triton.jit
def activated(x, GELU: tl.constexpr):
    """Return f(x), which is GELU or ReLU."""
    return gelu(x) if GELU else tl.where(x < 0, 0.0, x)  # a comparison: the hardware's maximum drops a NaN


# A number that changes from call to call must not compile a kernel of its own whenever it is 1 or divisible by 16.
@triton.jit(do_not_specialize=["num_rows"])
def _bias_activation_kernel(
    rows_ptr,
    bias_ptr,
    num_rows,
    NUM_COLUMNS: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute x = f(x + bias) on one tile of `rows`, in float32; f is GELU or ReLU. Tiles are numbered along the rows.

    Memory traffic: every element read once and written once; the bias once per BLOCK_ROWS rows, from the caches.
    """
    tiles: tl.constexpr = tl.cdiv(NUM_COLUMNS, BLOCK_COLUMNS)
    tile = tl.program_id(0)
    row = (tile // tiles).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = (tile % tiles) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    real = column < NUM_COLUMNS
    inside = (row < num_rows)[:, None] & real[None, :]
    place = rows_ptr + row[:, None] * NUM_COLUMNS + column[None, :]
    bias = tl.load(bias_ptr + column, mask=real, other=0.0).to(tl.float32)
    x = tl.load(place, mask=inside, other=0.0).to(tl.float32) + bias[None, :]
    tl.store(place, activated(x, GELU), mask=inside)


@triton.jit
def whole_rows(num_rows, NUM_COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Return the tile of a program with BLOCK_ROWS whole rows: its rows and columns, which of the columns and of the
    elements exist, and where those lie in the matrix."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_COLUMNS)
    real = column < NUM_COLUMNS
    inside = (row < num_rows)[:, None] & real[None, :]
    return row, column, real, inside, row[:, None] * NUM_COLUMNS + column[None, :]


@triton.jit
def _centred_and_factor(z, inside, epsilon, NUM_COLUMNS: tl.constexpr, UNBIASED: tl.constexpr):
    """Return z - mean, 0 beside the columns, and the factor by which LayerNorm multiplies it (`_add_layer_norm_kernel`
    has the formulas); z is float32 [rows, columns], 0 beside the columns."""
    mean = tl.sum(z, axis=1, keep_dims=True) / NUM_COLUMNS
    centred = tl.where(inside, z - mean, 0.0)
    if UNBIASED:
        # The rounding of the mean makes a deviation of 1e-8 where all z are equal, and beside an epsilon outside the
        # root that counts. What it left is a sum of small numbers, without such rounding.
        centred = tl.where(inside, centred - tl.sum(centred, axis=1, keep_dims=True) / NUM_COLUMNS, 0.0)
        # Squares of z beyond 1e19 or below 1e-19 have no float32; those of numbers around 1 have.
        largest = tl.max(tl.abs(centred), axis=1, keep_dims=True)
        unit = tl.where(largest > 0, largest, 1.0)
        part = centred / unit
        deviation = tl.sqrt(tl.sum(part * part, axis=1, keep_dims=True) / (NUM_COLUMNS - 1)) * unit
        factor = 1.0 / (deviation + epsilon)
    else:
        variance = tl.sum(centred * centred, axis=1, keep_dims=True) / NUM_COLUMNS
        factor = tl.rsqrt(variance + epsilon)
    return centred, factor


@triton.jit
def normalised(tensors, column, real, inside, place, epsilon, NUM_COLUMNS: tl.constexpr, UNBIASED: tl.constexpr):
    """Return LayerNorm(x + bias + residual) on whole rows in float32, as `_add_layer_norm_kernel` has the formulas.

    `tensors` are the pointers to x, bias, residual and the weight and bias of the LayerNorm, the others the tile of
    `whole_rows`.
    """
    rows_ptr, bias_ptr, residual_ptr, weight_ptr, norm_bias_ptr = tensors
    z = tl.load(rows_ptr + place, mask=inside, other=0.0).to(tl.float32)
    z += tl.load(residual_ptr + place, mask=inside, other=0.0).to(tl.float32)
    z += tl.load(bias_ptr + column, mask=real, other=0.0).to(tl.float32)[None, :]
    centred, factor = _centred_and_factor(z, inside, epsilon, NUM_COLUMNS, UNBIASED)
    weight = tl.load(weight_ptr + column, mask=real, other=0.0).to(tl.float32)
    norm_bias = tl.load(norm_bias_ptr + column, mask=real, other=0.0).to(tl.float32)
    return centred * factor * weight[None, :] + norm_bias[None, :]


@triton.jit(do_not_specialize=["num_rows"])
def _add_layer_norm_kernel(
    rows_ptr,
    bias_ptr,
    residual_ptr,
    weight_ptr,
    norm_bias_ptr,
    num_rows,
    epsilon,
    NUM_COLUMNS: tl.constexpr,
    UNBIASED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute x = LayerNorm(z) on BLOCK_ROWS whole rows (Ba et al. 2016), with z = x + bias + residual::

        mean = sum z / H, variance = sum (z - mean)^2 / H, x = (z - mean) / sqrt(variance + epsilon) weight + norm_bias

    and where UNBIASED::

        variance = sum (z - mean)^2 / (H - 1), x = (z - mean) / (sqrt(variance) + epsilon) weight + norm_bias

    z and the sums are float32 and stay in registers, and the sum of squares follows that of z: nothing cancels.

    Memory traffic: every element of both inputs read once, one written; the three vectors once per BLOCK_ROWS rows,
    from the caches.
    """
    _, column, real, inside, place = whole_rows(num_rows, NUM_COLUMNS, BLOCK_ROWS, BLOCK_COLUMNS)
    tensors = (rows_ptr, bias_ptr, residual_ptr, weight_ptr, norm_bias_ptr)
    y = normalised(tensors, column, real, inside, place, epsilon, NUM_COLUMNS, UNBIASED)
    tl.store(rows_ptr + place, y, mask=inside)


_bias_activation = KeptKernel(_bias_activation_kernel)
_add_layer_norm = KeptKernel(_add_layer_norm_kernel)


def unsupported(dtype: torch.dtype, hidden_size: int, activation: str) -> str | None:
    """Return why the kernels cannot serve such a layer, or None."""
    if dtype not in DTYPES:
        return f"the Triton kernels have no {dtype}"
    if configs.whole_rows(hidden_size) is None:
        largest = configs.WHOLE_ROWS[-1].block_columns
        return f"the hidden sizes of the Triton kernels go to {largest}, not {hidden_size}"
    if activation not in ACTIVATIONS:
        return f"the activations of the Triton kernels are {' and '.join(ACTIVATIONS)}, not {activation!r}"
    return None


def bias_activation_(rows: Tensor, bias: Tensor, activation: str) -> Tensor:
    """Compute rows = f(rows + bias) in place, in float32.

    Args:
        rows: [T, I] float32, bfloat16 or float16, contiguous.
        bias: [I], floating point, contiguous.
        activation: one of ACTIVATIONS; "gelu" is the one by the error function.

    Returns:
        `rows`.
    """
    if _bias_activation.launch_again(activation, (rows, bias), ()):
        return rows
    check_contiguous(rows)
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
    if rows.numel() > 0:
        columns = int(rows.shape[1])  # a constant of the kernel; under a tracer it may be a symbol
        constants = {"NUM_COLUMNS": columns, "GELU": activation == "gelu"}
        with device_guard(rows):
            _bias_activation.launch(activation, (rows, bias), (), constants, configs.BIAS_ACTIVATION)
    return rows


def add_layer_norm_(rows: Tensor, bias: Tensor, residual: Tensor, norm: LayerNorm) -> Tensor:
    """Compute rows = LayerNorm(rows + bias + residual) in place, in float32.

    Args:
        rows: [T, H] float32, bfloat16 or float16, contiguous.
        bias: [H], floating point, contiguous.
        residual: [T, H].
        norm: whose weight and bias are floating point, contiguous.

    Returns:
        `rows`.
    """
    if _add_layer_norm.launch_again(norm.kind, (rows, bias, residual, norm.weight, norm.bias), (norm.eps,)):
        return rows
    check_contiguous(rows)
    check_layer_norm(norm.kind, int(rows.shape[1]))
    if rows.numel() > 0:
        columns = int(rows.shape[1])
        config = configs.whole_rows(columns)
        if config is None:
            raise ValueError(f"rows of {columns} elements do not fit into a tile")
        tensors = (rows, bias, residual.contiguous(), norm.weight, norm.bias)
        constants = {"NUM_COLUMNS": columns, "UNBIASED": norm.kind == "unbiased"}
        with device_guard(rows):
            _add_layer_norm.launch(norm.kind, tensors, (norm.eps,), constants, config)
    return rows


def check_contiguous(rows: Tensor) -> None:
    if not rows.is_contiguous():
        raise ValueError("rows are written in place and must be contiguous")


def device_guard(rows: Tensor) -> AbstractContextManager:
    """Make the device of `rows` current, on which Triton launches.

    Dynamo, which sees these launches as they are, has a guard of its own and cannot look into this one.
    """
    return contextlib.nullcontext() if torch.compiler.is_compiling() else torch.cuda.device_of(rows)

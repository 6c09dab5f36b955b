"""Layers on the vectors of one sample: device functions that the Triton kernels of the exit heads share.

Vectors lie in memory, where every thread of a program can read them. A program reads only what it wrote itself, after
a barrier.
"""

from __future__ import annotations

import triton
import triton.language as tl

MAX_HEADS = tl.constexpr(8)


@triton.jit
def tanh(x):
    """Return tanh(x) to about 2 units in the last place of float32; NaN stays NaN, an infinity becomes 1 or -1.

    Near zero, where 1 - 2 / (1 + exp(2x)) cancels, a polynomial in x^2: the minimax fit of (tanh(x) / x - 1) / x^2 on
    |x| < 0.55, relative error of tanh 4e-8.
    """
    size = tl.abs(x)
    square = x * x
    series = ((0.0164587604 * square - 0.0526841460) * square + 0.133209423) * square - 0.333329571
    away = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * size))
    return tl.where(size < 0.55, x + x * square * series, tl.where(x < 0, -away, away))


@triton.jit
def are_bounds(begin, end, tokens):
    """Return whether a sample can own the rows from `begin` up to `end` of T tokens."""
    return (begin >= 0) & (begin <= end) & (end <= tokens)


@triton.jit
def rows_of(cu_seqlens_ptr, sample, tokens):
    """Return the first row of a sample and its length.

    The host does not see the bounds, which lie on the device, and must not wait for them. Such as leave the T rows are
    those of a sample without tokens.
    """
    begin = tl.load(cu_seqlens_ptr + sample)
    end = tl.load(cu_seqlens_ptr + sample + 1)
    return begin.to(tl.int64), tl.where(are_bounds(begin, end, tokens), end - begin, 0)


@triton.jit
def load_tile(matrix_ptr, row, in_rows, column, in_columns, stride, CACHE: tl.constexpr):
    """Return the elements [rows, columns] of a matrix whose rows are `stride` elements apart; 0 for those of a row or
    column that does not exist. CACHE is a modifier of `tl.load`, "" for none."""
    return tl.load(
        matrix_ptr + row[:, None] * stride + column[None, :],
        mask=in_rows[:, None] & in_columns[None, :],
        other=0.0,
        cache_modifier=CACHE,
    )


@triton.jit
def _vector_times_matrix(vector_ptr, matrix_ptr, rows, COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """Return vector [rows] @ matrix [rows, COLUMNS] in float32, BLOCK_ROWS rows at a time, the next ones under way."""
    row = tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, COLUMNS)
    sums = tl.zeros([BLOCK_ROWS, COLUMNS], tl.float32)
    for start in tl.range(0, rows, BLOCK_ROWS, num_stages=3):
        part = tl.load(vector_ptr + start + row)
        matrix = tl.load(matrix_ptr + (start + row)[:, None] * COLUMNS + column[None, :])
        sums += part[:, None] * matrix.to(tl.float32)
    return tl.sum(sums, axis=0)


@triton.jit
def score_vectors(
    first_ptr, query_ptr, query_bias_ptr, scorer_ptr, pooled_size, NARROW_SIZE: tl.constexpr, BLOCK_ROWS: tl.constexpr
):
    """Compute scorer [h, C] = Z_0 query_i + query_bias_i for first = Z_0 [C]; pooled_size is h * C."""
    narrow = tl.arange(0, NARROW_SIZE)
    for offset in range(0, pooled_size, NARROW_SIZE):
        u = _vector_times_matrix(first_ptr, query_ptr + offset * NARROW_SIZE, NARROW_SIZE, NARROW_SIZE, BLOCK_ROWS)
        tl.store(scorer_ptr + offset + narrow, u + tl.load(query_bias_ptr + offset + narrow))


@triton.jit
def classify(
    pooled_ptr,
    length,
    mlp,
    logits_ptr,
    pooled_size,
    num_labels,
    MLP_TANH: tl.constexpr,
    NARROW_SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_LABELS: tl.constexpr,
):
    """Compute logits [N] = g(pooled [h * C] value + value_bias) output_weight^T + output_bias; NaN at length 0.

    `mlp` are the pointers to these weights, in that order.
    """
    value_ptr, value_bias_ptr, output_weight_ptr, output_bias_ptr = mlp
    narrow = tl.arange(0, NARROW_SIZE)
    features = _vector_times_matrix(pooled_ptr, value_ptr, pooled_size, NARROW_SIZE, BLOCK_ROWS)
    features += tl.load(value_bias_ptr + narrow)
    if MLP_TANH:
        features = tanh(features)
    features = tl.where(length > 0, features, float("nan"))
    for start in range(0, num_labels, BLOCK_LABELS):
        label = start + tl.arange(0, BLOCK_LABELS)
        inside = label < num_labels
        weight = tl.load(
            output_weight_ptr + label[:, None] * NARROW_SIZE + narrow[None, :], mask=inside[:, None], other=0.0
        )
        logits = tl.sum(weight * features[None, :], axis=1) + tl.load(output_bias_ptr + label, mask=inside, other=0.0)
        tl.store(logits_ptr + label, logits, mask=inside)

"""The pooled exit head as one Triton kernel: one program per sample, one launch per layer."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastbert_kernels import backends
from fastbert_kernels.exit_heads import HeadInputs, PooledHeadWeights
from fastbert_kernels.triton import configs
from fastbert_kernels.triton.decision import decide, rule_and_largest_entropy, unsupported_rule
from fastbert_kernels.triton.layers import load_tile, rows_of, tanh
from fastbert_kernels.triton.tracing import Wrap, unwrapped

MAX_LAYERS = 3


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "tanh":
        x = tanh(x)
    elif ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)  # NaN stays NaN
    elif ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    return x


@triton.jit
def _dense(x_ptr, weight_ptr, bias_ptr, out_ptr, size_in, size_out, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """Compute out [size_out] = f(weight [size_out, size_in] x + bias), BLOCK x BLOCK weights at a time."""
    for start in range(0, size_out, BLOCK):
        row = start + tl.arange(0, BLOCK)
        inside_out = row < size_out
        sums = tl.zeros([BLOCK, BLOCK], tl.float32)
        for k in range(0, size_in, BLOCK):
            column = k + tl.arange(0, BLOCK)
            inside = column < size_in
            weight = load_tile(weight_ptr, row.to(tl.int64), inside_out, column, inside, size_in, "")
            x = tl.load(x_ptr + column, mask=inside, other=0.0)
            sums += weight.to(tl.float32) * x[None, :]
        out = tl.sum(sums, axis=1) + tl.load(bias_ptr + row, mask=inside_out, other=0.0)
        tl.store(out_ptr + row, _activate(out, ACTIVATION), mask=inside_out)


# A number that changes from call to call must not compile a kernel of its own whenever it is 1 or divisible by 16.
@triton.jit(do_not_specialize=["num_tokens"])
def _pooled_exit_head_kernel(
    hidden_ptr,
    cu_seqlens_ptr,
    speed_ptr,
    history_ptr,
    weight_0_ptr,
    weight_1_ptr,
    weight_2_ptr,
    bias_0_ptr,
    bias_1_ptr,
    bias_2_ptr,
    logits_ptr,
    uncertainty_ptr,
    new_history_ptr,
    keep_ptr,
    scratch_ptr,
    num_tokens,
    hidden_size,
    size_1,
    size_2,
    num_labels,
    scratch_size,
    largest_entropy,
    parameter,
    NUM_LAYERS: tl.constexpr,
    POOLING: tl.constexpr,
    ACTIVATION: tl.constexpr,
    CRITERION: tl.constexpr,
    HAS_HISTORY: tl.constexpr,
    ALL_LABELS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Decide on sample `program_id(0)`, whose rows of `hidden` are X [n, H]: pooled to one row (the first,
    the mean, or the largest value per column), then NUM_LAYERS linear layers with f between them, then `decide`.

    Memory traffic of a sample: its n * H elements of `hidden` once (H for the first row); all weights once from the
    level 2 cache. `scratch` [B, 3, scratch_size] float32 holds the pooled row and the outputs between layers.
    """
    sample = tl.program_id(0).to(tl.int64)
    begin, length = rows_of(cu_seqlens_ptr, sample, num_tokens)
    sample_ptr = hidden_ptr + begin * hidden_size
    pooled_ptr = scratch_ptr + sample * 3 * scratch_size
    logits_ptr += sample * num_labels

    for start in range(0, hidden_size, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = column < hidden_size
        if POOLING == "first":
            there = column < tl.minimum(length, 1) * hidden_size  # no first row in a sample without tokens
            pooled = tl.load(sample_ptr + column, mask=there, other=0.0).to(tl.float32)
        else:
            pooled = tl.full([BLOCK_COLUMNS], 0.0 if POOLING == "mean" else -float("inf"), tl.float32)
            not_numbers = tl.zeros([BLOCK_COLUMNS], tl.int32)
            for first in range(0, length, BLOCK_TOKENS):
                token = first + tl.arange(0, BLOCK_TOKENS)
                rows = tl.load(
                    sample_ptr + token[:, None].to(tl.int64) * hidden_size + column[None, :],
                    mask=(token < length)[:, None] & inside[None, :],
                    other=0.0 if POOLING == "mean" else -float("inf"),
                ).to(tl.float32)
                if POOLING == "mean":
                    pooled += tl.sum(rows, axis=0)
                else:
                    pooled = tl.maximum(pooled, tl.max(rows, axis=0))
                    not_numbers += tl.sum((rows != rows).to(tl.int32), axis=0)  # the maximum may drop them
            if POOLING == "mean":
                pooled = pooled / length.to(tl.float32)
            else:
                pooled = tl.where(not_numbers > 0, float("nan"), pooled)
        tl.store(pooled_ptr + column, tl.where(length > 0, pooled, float("nan")), mask=inside)
    tl.debug_barrier()

    weights = (weight_0_ptr, weight_1_ptr, weight_2_ptr)
    biases = (bias_0_ptr, bias_1_ptr, bias_2_ptr)
    sizes = (hidden_size, size_1, size_2)  # that the layers take
    x_ptr = pooled_ptr
    for layer in tl.static_range(NUM_LAYERS - 1):
        out_ptr = x_ptr + scratch_size
        _dense(x_ptr, weights[layer], biases[layer], out_ptr, sizes[layer], sizes[layer + 1], ACTIVATION, BLOCK)
        tl.debug_barrier()
        x_ptr = out_ptr
    last: tl.constexpr = NUM_LAYERS - 1
    _dense(x_ptr, weights[last], biases[last], logits_ptr, sizes[last], num_labels, "identity", BLOCK)
    samples = (speed_ptr, history_ptr, uncertainty_ptr, new_history_ptr, keep_ptr)
    decide(logits_ptr, num_labels, largest_entropy, parameter, sample, samples, CRITERION, HAS_HISTORY, ALL_LABELS)


def pooled_exit_head(
    results: tuple[Tensor, ...], inputs: HeadInputs, head: PooledHeadWeights, *, wrap: Wrap = unwrapped
) -> None:
    """Fill the results of `fastbert_kernels.ops.pooled_exit_head`, of contiguous tensors.

    Raises:
        backends.Unsupported: a shape that the kernel does not cover.
    """
    hidden, cu_seqlens, speed, history, criterion, parameter = inputs
    labels = int(head.num_labels)
    rule, largest_entropy = rule_and_largest_entropy(criterion, parameter, labels)
    if reason := unsupported_rule(rule, labels):
        raise backends.Unsupported(reason)
    batch = speed.shape[0]
    if batch == 0:
        return
    widths = [int(hidden.shape[1]), *(int(weight.shape[0]) for weight in head.weights)]
    # Layers that are not there are given the first one's tensors, which are not read.
    layers = [*range(len(head.weights)), 0, 0][:MAX_LAYERS]
    config = configs.POOLED_EXIT_HEAD
    with torch.cuda.device_of(hidden):
        wrap(_pooled_exit_head_kernel)[(batch,)](
            hidden,
            cu_seqlens,
            speed,
            cu_seqlens if history is None else history,
            *(head.weights[layer] for layer in layers),
            *(head.biases[layer] for layer in layers),
            *results,
            hidden.new_empty(batch, 3, max(widths[:-1]), dtype=torch.float32),
            hidden.shape[0],
            widths[0],
            *[*widths[1:-1], 0, 0][: MAX_LAYERS - 1],
            labels,
            max(widths[:-1]),
            largest_entropy,
            parameter,
            NUM_LAYERS=len(head.weights),
            POOLING=head.pooling,
            ACTIVATION=head.activation,
            CRITERION=rule.value,
            HAS_HISTORY=history is not None,
            ALL_LABELS=triton.next_power_of_2(labels),
            BLOCK_TOKENS=config.block_tokens,
            BLOCK_COLUMNS=config.block_columns,
            BLOCK=config.block,
            num_warps=config.num_warps,
        )

"""The attentive head as one Triton kernel: one program per sample, one launch per layer.

`attentive_head_linear.py` has the other way to pool, for the identity as narrow activation.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastbert_kernels import backends
from fastbert_kernels.criteria import Criterion
from fastbert_kernels.exit_heads import AttentiveHeadWeights, HeadInputs
from fastbert_kernels.triton import configs
from fastbert_kernels.triton.attentive_head_linear import pool_unprojected
from fastbert_kernels.triton.decision import decide, rule_and_largest_entropy, unsupported_rule
from fastbert_kernels.triton.layers import MAX_HEADS, classify, load_tile, rows_of, score_vectors, tanh
from fastbert_kernels.triton.tracing import Wrap, unwrapped


@triton.jit
def pool_projected(
    sample_ptr,
    length,
    weights,
    scratch_ptr,
    num_heads,
    HIDDEN_SIZE: tl.constexpr,
    NARROW_SIZE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    NARROW_TANH: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Pool the rows X [n, H] of a sample, and return where the c_i [h, C] lie::

        Z   = f(X projection_weight^T + projection_bias)                   tile by tile, in registers
        u_i = Z_0 query_i + query_bias_i                                   i = 1..h
        c_i = softmax_j(u_i . Z_j) Z                                       online over tiles of tokens

    Memory traffic of a sample: its n * H elements of `hidden` once from memory; from the level 2 cache, which all
    samples share, the C * H elements of the projection once per tile of BLOCK_TOKENS tokens, and the h C * C of the
    queries. Z, the scores and the attention weights never leave the chip.

    `weights` are the pointers to these weights, in that order: projection weight and bias, query and query bias.
    `scratch` [(2 h + 1) C] float32 holds Z_0, the u_i and the sums for c_i. A program reads only what it wrote itself,
    a few KB in the caches; kept in registers, every thread would hold a copy beside its part of Z.

    WIDEN turns the operands of the matrix product into float32, which Triton's interpreter needs.
    """
    projection_weight_ptr, projection_bias_ptr, query_ptr, query_bias_ptr = weights
    pooled_size = num_heads * NARROW_SIZE
    first_ptr = scratch_ptr  # Z_0 [C]
    scorer_ptr = first_ptr + NARROW_SIZE  # u_i [h, C]
    pooled_ptr = scorer_ptr + pooled_size  # sum_j exp(score_j - largest) Z_j [h, C]

    narrow = tl.arange(0, NARROW_SIZE)
    head = tl.arange(0, MAX_HEADS)[:, None]  # loops over heads count in steps of C: `offset` is where row i begins
    largest = tl.full([MAX_HEADS, 1], -float("inf"), tl.float32)
    total = tl.zeros([MAX_HEADS, 1], tl.float32)

    for start in range(0, length, BLOCK_TOKENS):
        token = start + tl.arange(0, BLOCK_TOKENS)
        in_sample = token < length
        z = tl.zeros([BLOCK_TOKENS, NARROW_SIZE], tl.float32)
        for k in range(0, HIDDEN_SIZE, BLOCK_HIDDEN):
            column = k + tl.arange(0, BLOCK_HIDDEN)
            inside = column < HIDDEN_SIZE
            x = load_tile(sample_ptr, token, in_sample, column, inside, HIDDEN_SIZE, "")
            weight = tl.load(
                projection_weight_ptr + narrow[None, :] * HIDDEN_SIZE + column[:, None], mask=inside[:, None], other=0.0
            )
            if WIDEN:
                x = x.to(tl.float32)
                weight = weight.to(tl.float32)
            z = tl.dot(x, weight, z, input_precision="ieee")
        # Rows after the last token are finite whatever lies there, and get the weight 0 below.
        z += tl.load(projection_bias_ptr + narrow)[None, :]
        if NARROW_TANH:
            z = tanh(z)

        if start == 0:
            tl.store(first_ptr + narrow, tl.sum(tl.where((token == 0)[:, None], z, 0.0), axis=0))
            tl.debug_barrier()
            score_vectors(first_ptr, query_ptr, query_bias_ptr, scorer_ptr, pooled_size, NARROW_SIZE, BLOCK_ROWS)
            tl.debug_barrier()

        for offset in range(0, pooled_size, NARROW_SIZE):
            this = head == offset // NARROW_SIZE
            u = tl.load(scorer_ptr + offset + narrow)
            # Kept in two dimensions: reduced to a scalar over both, some versions of Triton fail to compile for sm_100.
            scores = tl.where(in_sample[:, None], tl.sum(z * u[None, :], axis=1, keep_dims=True), -float("inf"))
            # A NaN score may get lost in the maximum; it comes back through the sums.
            before = tl.sum(tl.where(this, largest, 0.0), axis=0, keep_dims=True)
            now = tl.maximum(before, tl.max(scores, axis=0, keep_dims=True))
            attention = tl.exp(scores - now)  # [BLOCK_TOKENS, 1]
            shrink = tl.exp(before - now)
            pooled_row_ptr = pooled_ptr + offset + narrow[None, :]
            pooled = tl.sum(attention * z, axis=0, keep_dims=True)
            if start > 0:
                pooled += shrink * tl.load(pooled_row_ptr)
                tl.debug_barrier()
            tl.store(pooled_row_ptr, pooled)
            total = tl.where(this, total * shrink + tl.sum(attention, axis=0, keep_dims=True), total)
            largest = tl.where(this, now, largest)
        tl.debug_barrier()

    for offset in range(0, pooled_size, NARROW_SIZE):
        # Of a sample without tokens nothing was written there: the mask is empty then, and full otherwise.
        pooled = tl.load(pooled_ptr + offset + narrow, mask=narrow < length * NARROW_SIZE, other=0.0)
        pooled /= tl.sum(tl.where(head == offset // NARROW_SIZE, total, 0.0))
        tl.debug_barrier()
        tl.store(pooled_ptr + offset + narrow, pooled)  # c_i
    tl.debug_barrier()
    return pooled_ptr


# A number that changes from call to call must not compile a kernel of its own whenever it is 1 or divisible by 16.
@triton.jit(do_not_specialize=["num_tokens"])
def _attentive_head_kernel(
    hidden_ptr,
    cu_seqlens_ptr,
    speed_ptr,
    history_ptr,
    projection_weight_ptr,
    projection_bias_ptr,
    query_ptr,
    query_bias_ptr,
    value_ptr,
    value_bias_ptr,
    output_weight_ptr,
    output_bias_ptr,
    logits_ptr,
    uncertainty_ptr,
    new_history_ptr,
    keep_ptr,
    scratch_ptr,
    num_tokens,
    num_heads,
    num_labels,
    largest_entropy,
    parameter,
    PROJECTED: tl.constexpr,
    SCRATCH_SIZE: tl.constexpr,
    HIDDEN_SIZE: tl.constexpr,
    NARROW_SIZE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_LABELS: tl.constexpr,
    ALL_LABELS: tl.constexpr,
    NARROW_TANH: tl.constexpr,
    MLP_TANH: tl.constexpr,
    CRITERION: tl.constexpr,
    HAS_HISTORY: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Decide on sample `program_id(0)`, whose rows of `hidden` are X [n, H]: pooled to the c_i [h, C] as in
    `pool_projected`, or for the identity as narrow activation as in `pool_unprojected`, then::

        logits = g([c_1 .. c_h] value + value_bias) output_weight^T + output_bias

    and from there uncertainty, prediction and keep as in `decide`; g is tanh or the identity.

    Memory traffic of a sample beside that of the pooling: from the level 2 cache the (h C + N) * C of the weights;
    N + 3 words and one byte written. `scratch` [B, SCRATCH_SIZE] float32 is for the pooling.
    """
    sample = tl.program_id(0).to(tl.int64)
    begin, length = rows_of(cu_seqlens_ptr, sample, num_tokens)
    sample_ptr = hidden_ptr + begin * HIDDEN_SIZE
    scratch_ptr += sample * SCRATCH_SIZE
    pooled_ptr = (pool_projected if PROJECTED else pool_unprojected)(
        sample_ptr,
        length,
        (projection_weight_ptr, projection_bias_ptr, query_ptr, query_bias_ptr),
        scratch_ptr,
        num_heads,
        HIDDEN_SIZE,
        NARROW_SIZE,
        BLOCK_TOKENS,
        BLOCK_HIDDEN,
        BLOCK_ROWS,
        NARROW_TANH,
        WIDEN,
    )
    pooled_size = num_heads * NARROW_SIZE
    logits_ptr += sample * num_labels
    mlp = (value_ptr, value_bias_ptr, output_weight_ptr, output_bias_ptr)
    classify(
        pooled_ptr, length, mlp, logits_ptr, pooled_size, num_labels, MLP_TANH, NARROW_SIZE, BLOCK_ROWS, BLOCK_LABELS
    )
    samples = (speed_ptr, history_ptr, uncertainty_ptr, new_history_ptr, keep_ptr)
    decide(logits_ptr, num_labels, largest_entropy, parameter, sample, samples, CRITERION, HAS_HISTORY, ALL_LABELS)


# False where the decorator made an interpreted function of the kernel (TRITON_INTERPRET=1), which takes CPU tensors.
COMPILED = isinstance(_attentive_head_kernel, triton.JITFunction)


def attentive_head(
    results: tuple[Tensor, ...], inputs: HeadInputs, head: AttentiveHeadWeights, *, wrap: Wrap = unwrapped
) -> None:
    """Fill the results of `fastbert_kernels.ops.attentive_head`, of contiguous tensors.

    Raises:
        backends.Unsupported: a shape or dtype that the kernel does not cover.
    """
    hidden, cu_seqlens, speed, history, criterion, parameter = inputs
    # Sizes of the weights are constants of the kernel. Under a tracer they may be symbols; int() makes numbers of them.
    heads, narrow, hidden_size, labels = (
        int(size) for size in (*head.tensors.query.shape[:2], hidden.shape[1], head.num_labels)
    )
    rule, largest_entropy = rule_and_largest_entropy(criterion, parameter, labels)
    if reason := unsupported(hidden.dtype, hidden_size, narrow, heads, labels, rule):
        raise backends.Unsupported(reason)
    batch = speed.shape[0]
    if batch == 0:
        return
    config = configs.attentive_head(hidden, batch, narrow)
    projected = head.narrow_activation == "tanh" or projecting_reads_less(hidden, batch, config)
    if not projected:
        config = configs.linear_attentive_head(hidden, narrow)
    constants = constants_of(config, hidden_size, narrow, heads, labels, projected=projected)
    previous = cu_seqlens if history is None else history  # without a history any int32 tensor will do: it is not read
    with torch.cuda.device_of(hidden):
        wrap(_attentive_head_kernel)[(batch,)](
            hidden,
            cu_seqlens,
            speed,
            previous,
            *head.tensors,
            *results,
            hidden.new_empty(batch, constants["SCRATCH_SIZE"], dtype=torch.float32),
            hidden.shape[0],
            heads,
            labels,
            largest_entropy,
            parameter,
            **constants,
            NARROW_TANH=head.narrow_activation == "tanh",
            MLP_TANH=head.mlp_activation == "tanh",
            CRITERION=rule.value,
            HAS_HISTORY=history is not None,
            WIDEN=not COMPILED,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )


def projecting_reads_less(hidden: Tensor, batch: int, config: configs.AttentiveHeadConfig) -> bool:
    """Return whether `pool_projected`, with tiles of `config`, is the better one without a narrow activation.

    It reads the projection weights once a tile, the other one three times. In 16 bits, where the matrix units do the
    products on the way, that is less up to three tiles a sample; in float32 the products are what takes the time.
    """
    return hidden.element_size() == 2 and hidden.shape[0] <= 3 * config.block_tokens * batch


def constants_of(
    config: configs.AttentiveHeadConfig, hidden_size: int, narrow: int, heads: int, labels: int, *, projected: bool
) -> dict[str, Any]:
    """Return the compile-time arguments that follow from one shape and the way to pool."""
    return {
        "PROJECTED": projected,
        "SCRATCH_SIZE": (2 * heads + 1) * narrow if projected else 3 * heads * hidden_size + (heads + 1) * narrow,
        "HIDDEN_SIZE": hidden_size,
        "NARROW_SIZE": narrow,
        "BLOCK_TOKENS": config.block_tokens,
        "BLOCK_HIDDEN": config.block_hidden,
        "BLOCK_ROWS": config.block_rows,
        "BLOCK_LABELS": min(triton.next_power_of_2(labels), config.block_rows),
        "ALL_LABELS": triton.next_power_of_2(labels),
    }


def unsupported(
    dtype: torch.dtype, hidden_size: int, narrow: int, heads: int, labels: int, rule: Criterion
) -> str | None:
    """Return why the kernel cannot run, or None."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the Triton kernel has no {dtype}"
    if narrow not in configs.NARROW_SIZES:
        return f"the narrow sizes of the Triton kernel are {configs.NARROW_SIZES}, not {narrow}"
    if not 1 <= heads <= MAX_HEADS.value:
        return f"the Triton kernel has 1 to {MAX_HEADS.value} attention heads, not {heads}"
    if hidden_size % 8 != 0 or hidden_size == 0:
        return f"the hidden sizes of the Triton kernel are multiples of 8, not {hidden_size}"
    return unsupported_rule(rule, labels)

"""The pooling of an attentive head with the identity as narrow activation, which need not project the tokens: a device
function of the kernel in `attentive_head.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from fastbert_kernels.triton.layers import MAX_HEADS, load_tile, score_vectors


@triton.jit
def _multiply(a, b, sums, WIDEN: tl.constexpr):
    """Return sums + a @ b for float32 `b` and `sums`, about as precise as float32.

    Where `a` has 16 bits the matrix units get `b`, which must be within its range, as the sum of two numbers of that
    dtype.
    """
    if a.dtype == tl.float32:
        sums = tl.dot(a, b, sums, input_precision="ieee")
    else:
        high = b.to(a.dtype)
        low = (b - high.to(tl.float32)).to(a.dtype)
        if WIDEN:
            a = a.to(tl.float32)
            high = high.to(tl.float32)
            low = low.to(tl.float32)
        sums = tl.dot(a, high, tl.dot(a, low, sums))
    return sums


@triton.jit
def _project(
    vectors_ptr,
    divisor,
    count,
    projection_weight_ptr,
    HIDDEN_SIZE: tl.constexpr,
    NARROW_SIZE: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Return projection_weight [C, H] times each of `count` vectors [count, H] over `divisor`: [C, MAX_HEADS]."""
    narrow = tl.arange(0, NARROW_SIZE)[:, None]
    head = tl.arange(0, MAX_HEADS)[None, :]
    products = tl.zeros([NARROW_SIZE, MAX_HEADS], tl.float32)
    for k in range(0, HIDDEN_SIZE, BLOCK_HIDDEN):
        column = k + tl.arange(0, BLOCK_HIDDEN)
        inside = column < HIDDEN_SIZE
        weight = tl.load(
            projection_weight_ptr + narrow * HIDDEN_SIZE + column[None, :], mask=inside[None, :], other=0.0
        )
        vectors = tl.load(
            vectors_ptr + head * HIDDEN_SIZE + column[:, None], mask=inside[:, None] & (head < count), other=0.0
        )
        products = _multiply(weight, vectors / divisor, products, WIDEN)
    return products


@triton.jit
def pool_unprojected(
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

        Z_0        = x_0 projection_weight^T + projection_bias                    [C]
        u_i        = Z_0 query_i + query_bias_i                                   [C]     i = 1..h
        keys_i     = u_i projection_weight                                        [H]
        contexts_i = softmax_j(keys_i . x_j) X                                    [H]     online over tiles of tokens
        c_i        = contexts_i projection_weight^T + projection_bias             [C]

    which are those of `pool_projected` with f = identity, since u_i . Z_j is keys_i . x_j and a term that is the
    same for every j, and the attention weights add up to 1.

    A token takes 4 MAX_HEADS H operations instead of 2 H C, and passes twice: for the scores of its tile, and then for
    the contexts. Memory traffic of a sample: its n * H elements of `hidden` once, as long as a tile stays in the level
    1 cache until it passes again; from the level 2 cache, which all samples share, three times the C * H elements of
    the projection and once the h C * C of the queries.

    `weights` are as in `pool_projected`. `scratch` [3 h H + (h + 1) C] float32 holds keys, two generations of contexts,
    Z_0 and u_i. A program reads only what it wrote itself. The products are made for MAX_HEADS heads, the least that
    matrix units multiply by; what is not there is 0. WIDEN turns their operands into float32, which Triton's
    interpreter needs.
    """
    tl.static_assert(not NARROW_TANH, "only without a narrow activation can the projection be left out")
    projection_weight_ptr, projection_bias_ptr, query_ptr, query_bias_ptr = weights
    context_size = num_heads * HIDDEN_SIZE
    pooled_size = num_heads * NARROW_SIZE
    keys_ptr = scratch_ptr  # [h, H]; before them x_0 [H]
    contexts_ptr = keys_ptr + context_size  # [2, h, H]: a tile reads one and writes the other
    first_ptr = contexts_ptr + 2 * context_size  # Z_0 [C]
    scorer_ptr = first_ptr + NARROW_SIZE  # u_i [h, C]; at the end c_i

    narrow = tl.arange(0, NARROW_SIZE)[:, None]
    head = tl.arange(0, MAX_HEADS)[None, :]
    is_head = head < num_heads

    for k in range(0, HIDDEN_SIZE, BLOCK_HIDDEN):
        column = k + tl.arange(0, BLOCK_HIDDEN)
        there = column < tl.minimum(length, 1) * HIDDEN_SIZE  # no first row in a sample without tokens
        x = tl.load(sample_ptr + column, mask=there, other=0.0)
        tl.store(keys_ptr + column, x.to(tl.float32), mask=column < HIDDEN_SIZE)
    tl.debug_barrier()
    first = _project(keys_ptr, 1.0, 1, projection_weight_ptr, HIDDEN_SIZE, NARROW_SIZE, BLOCK_HIDDEN, WIDEN)
    tl.store(first_ptr + head + narrow, first + tl.load(projection_bias_ptr + narrow), mask=head == 0)
    tl.debug_barrier()
    score_vectors(first_ptr, query_ptr, query_bias_ptr, scorer_ptr, pooled_size, NARROW_SIZE, BLOCK_ROWS)
    tl.debug_barrier()
    for k in range(0, HIDDEN_SIZE, BLOCK_HIDDEN):
        column = k + tl.arange(0, BLOCK_HIDDEN)[:, None]
        inside = column < HIDDEN_SIZE
        keys = tl.zeros([BLOCK_HIDDEN, MAX_HEADS], tl.float32)
        for c in range(0, NARROW_SIZE, BLOCK_HIDDEN):
            row = c + tl.arange(0, BLOCK_HIDDEN)
            weight = tl.load(projection_weight_ptr + row[None, :] * HIDDEN_SIZE + column, mask=inside, other=0.0)
            u = tl.load(scorer_ptr + head * NARROW_SIZE + row[:, None], mask=is_head, other=0.0)
            keys = _multiply(weight, u, keys, WIDEN)
        tl.store(keys_ptr + head * HIDDEN_SIZE + column, keys, mask=inside & is_head)
    tl.debug_barrier()

    largest = tl.full([1, MAX_HEADS], -float("inf"), tl.float32)
    total = tl.zeros([1, MAX_HEADS], tl.float32)
    for start in range(0, length, BLOCK_TOKENS):
        token = start + tl.arange(0, BLOCK_TOKENS)
        in_sample = token < length
        scores = tl.zeros([BLOCK_TOKENS, MAX_HEADS], tl.float32)
        for k in range(0, HIDDEN_SIZE, BLOCK_HIDDEN):
            column = k + tl.arange(0, BLOCK_HIDDEN)
            inside = column < HIDDEN_SIZE
            # Through the level 1 cache, where they lie when they are read again.
            x = load_tile(sample_ptr, token, in_sample, column, inside, HIDDEN_SIZE, ".ca")
            keys = tl.load(keys_ptr + head * HIDDEN_SIZE + column[:, None], mask=inside[:, None] & is_head, other=0.0)
            scores = _multiply(x, keys, scores, WIDEN)
        scores = tl.where(in_sample[:, None], scores, -float("inf"))
        # A NaN score may get lost in the maximum; it comes back through the sums.
        now = tl.maximum(largest, tl.max(scores, axis=0, keep_dims=True))
        attention = tl.exp(scores - now)  # [BLOCK_TOKENS, MAX_HEADS]
        shrink = tl.exp(largest - now)
        total = total * shrink + tl.sum(attention, axis=0, keep_dims=True)
        largest = now
        tile = start // BLOCK_TOKENS
        before_ptr = contexts_ptr + (tile + 1) % 2 * context_size
        after_ptr = contexts_ptr + tile % 2 * context_size
        for k in range(0, HIDDEN_SIZE, BLOCK_HIDDEN):
            column = k + tl.arange(0, BLOCK_HIDDEN)[:, None]
            inside = column < HIDDEN_SIZE
            x = tl.load(
                sample_ptr + token[None, :] * HIDDEN_SIZE + column,
                mask=in_sample[None, :] & inside,
                other=0.0,
                cache_modifier=".ca",
            )
            place = head * HIDDEN_SIZE + column
            contexts = tl.load(before_ptr + place, mask=inside & is_head & (start > 0), other=0.0)
            contexts = _multiply(x, attention, contexts * shrink, WIDEN)
            tl.store(after_ptr + place, contexts, mask=inside & is_head)
        tl.debug_barrier()

    # Those of the last tile; of a sample without tokens, whose answer is NaN, the keys, since they were written.
    tiles = tl.cdiv(length, BLOCK_TOKENS)
    total = tl.where(tiles > 0, total, float("nan"))
    last_ptr = keys_ptr + tl.minimum(tiles, 1) * (1 + (tiles + 1) % 2) * context_size
    pooled = _project(last_ptr, total, num_heads, projection_weight_ptr, HIDDEN_SIZE, NARROW_SIZE, BLOCK_HIDDEN, WIDEN)
    pooled += tl.load(projection_bias_ptr + narrow)  # again: kept since Z_0 it would take registers of every tile
    tl.store(scorer_ptr + head * NARROW_SIZE + narrow, pooled, mask=is_head)
    tl.debug_barrier()
    return scorer_ptr

"""Compaction as two Triton launches: the first decides where everything goes, the second moves it."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastbert_kernels.triton import configs
from fastbert_kernels.triton.layers import are_bounds
from fastbert_kernels.triton.tracing import Wrap, unwrapped


# A number that changes from call to call must not compile a kernel of its own whenever it is 1 or divisible by 16.
@triton.jit(do_not_specialize=["batch", "num_tokens", "num_results"])
def _place_kernel(
    cu_seqlens_ptr,
    keep_ptr,
    sample_index_ptr,
    speed_ptr,
    history_ptr,
    new_cu_seqlens_ptr,
    new_sample_index_ptr,
    new_speed_ptr,
    new_history_ptr,
    counts_ptr,
    destination_ptr,
    batch,
    num_tokens,
    num_results,
    BLOCK_SAMPLES: tl.constexpr,
):
    """Place BLOCK_SAMPLES samples. With k_b = keep (0 or 1) and n_b the length of sample b, write::

        rank_b        = k_0 + .. + k_{b-1}                      its index among the survivors
        destination_b = k_0 n_0 + .. + k_{b-1} n_{b-1}          its first row among theirs; -1 for a sample that leaves

    and sample index, Speed, history and last row of each survivor at its rank; the last program also writes counts =
    (B', T'), or -1 where a bound leaves the T rows or a sample index the results of the original batch.

    Every program sums up all samples before its own instead of waiting for its predecessors: any order of execution
    gives the same result. Memory traffic: 9 bytes of every earlier sample, from the level 2 cache, and about 30 bytes
    of each of its own.
    """
    block = tl.program_id(0)
    lane = tl.arange(0, BLOCK_SAMPLES)
    kept_before = tl.zeros([BLOCK_SAMPLES], tl.int32)
    tokens_before = tl.zeros([BLOCK_SAMPLES], tl.int32)
    outside = tl.zeros([BLOCK_SAMPLES], tl.int1)
    for start in range(0, block * BLOCK_SAMPLES, BLOCK_SAMPLES):
        sample = start + lane
        kept = tl.load(keep_ptr + sample).to(tl.int32)
        begin = tl.load(cu_seqlens_ptr + sample)
        end = tl.load(cu_seqlens_ptr + sample + 1)
        place = tl.load(sample_index_ptr + sample)
        kept_before += kept
        tokens_before += kept * (end - begin)
        outside |= (are_bounds(begin, end, num_tokens) & (place >= 0) & (place < num_results)) == 0
    base_rank = tl.sum(kept_before, axis=0)
    base_token = tl.sum(tokens_before, axis=0)

    sample = block * BLOCK_SAMPLES + lane
    inside = sample < batch
    kept = tl.load(keep_ptr + sample, mask=inside, other=0).to(tl.int32)
    begin = tl.load(cu_seqlens_ptr + sample, mask=inside, other=0)
    end = tl.load(cu_seqlens_ptr + sample + 1, mask=inside, other=0)
    place = tl.load(sample_index_ptr + sample, mask=inside, other=0)
    outside |= inside & ((are_bounds(begin, end, num_tokens) & (place >= 0) & (place < num_results)) == 0)
    tokens = kept * (end - begin)
    rank = base_rank + tl.cumsum(kept, axis=0) - kept
    token_end = base_token + tl.cumsum(tokens, axis=0)
    survives = inside & (kept != 0)
    tl.store(destination_ptr + sample, tl.where(kept != 0, token_end - tokens, -1), mask=inside)
    tl.store(new_cu_seqlens_ptr + rank + 1, token_end, mask=survives)
    tl.store(new_sample_index_ptr + rank, place, mask=survives)
    tl.store(new_speed_ptr + rank, tl.load(speed_ptr + sample, mask=inside, other=0.0), mask=survives)
    for i in tl.static_range(2):  # prediction and streak
        history = tl.load(history_ptr + 2 * sample + i, mask=inside, other=0)
        tl.store(new_history_ptr + 2 * rank + i, history, mask=survives)

    if block == 0:
        tl.store(new_cu_seqlens_ptr, 0)
    if block == tl.num_programs(0) - 1:
        any_outside = tl.max(outside.to(tl.int32), axis=0) > 0
        tl.store(counts_ptr, tl.where(any_outside, -1, base_rank + tl.sum(kept, axis=0)))
        tl.store(counts_ptr + 1, tl.where(any_outside, -1, base_token + tl.sum(tokens, axis=0)))


@triton.jit(do_not_specialize=["layer"])
def _move_kernel(
    words_ptr,
    cu_seqlens_ptr,
    destination_ptr,
    counts_ptr,
    sample_index_ptr,
    logits_ptr,
    uncertainty_ptr,
    new_words_ptr,
    new_cu_seqlens_ptr,
    new_sample_index_ptr,
    new_speed_ptr,
    new_history_ptr,
    out_logits_ptr,
    out_uncertainty_ptr,
    out_exit_layer_ptr,
    num_labels,
    layer,
    ROW_WORDS: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
    BLOCK_LABELS: tl.constexpr,
):
    """Move sample `program_id(0)`, or write its results; nothing where the counts are -1.

    When it survives, its rows, which are one contiguous piece of memory, are shared among the programs of axis 1; when
    it leaves, the first of them writes its results to row `sample_index` of the original batch. That one also fills the
    entries behind the survivors: cu_seqlens with T', sample index, Speed and history with 0.

    Memory traffic: rows of survivors read once and written once, logits of leaving samples read once and written once.
    """
    survivors = tl.load(counts_ptr)
    if survivors < 0:
        return
    sample = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    begin = tl.load(cu_seqlens_ptr + sample).to(tl.int64)
    end = tl.load(cu_seqlens_ptr + sample + 1).to(tl.int64)
    destination = tl.load(destination_ptr + sample).to(tl.int64)

    if part == 0 and sample >= survivors:
        tl.store(new_cu_seqlens_ptr + sample + 1, tl.load(counts_ptr + 1))
        tl.store(new_sample_index_ptr + sample, 0)
        tl.store(new_speed_ptr + sample, 0.0)
        tl.store(new_history_ptr + 2 * sample, 0)
        tl.store(new_history_ptr + 2 * sample + 1, 0)

    if destination >= 0:
        lane = tl.arange(0, BLOCK_WORDS)
        size = (end - begin) * ROW_WORDS
        words_ptr += begin * ROW_WORDS
        new_words_ptr += destination * ROW_WORDS
        for start in range(part * BLOCK_WORDS, size, tl.num_programs(1) * BLOCK_WORDS):
            inside = start + lane < size
            tl.store(new_words_ptr + start + lane, tl.load(words_ptr + start + lane, mask=inside, other=0), mask=inside)
    elif part == 0:
        row = tl.load(sample_index_ptr + sample).to(tl.int64)
        for start in range(0, num_labels, BLOCK_LABELS):
            label = start + tl.arange(0, BLOCK_LABELS)
            inside = label < num_labels
            logits = tl.load(logits_ptr + sample * num_labels + label, mask=inside, other=0.0)
            tl.store(out_logits_ptr + row * num_labels + label, logits, mask=inside)
        tl.store(out_uncertainty_ptr + row, tl.load(uncertainty_ptr + sample))
        tl.store(out_exit_layer_ptr + row, layer)


def compact(
    results: tuple[Tensor, ...],
    hidden: Tensor,
    cu_seqlens: Tensor,
    *arguments: Any,
    wrap: Wrap = unwrapped,
) -> None:
    """Fill the results of `fastbert_kernels.ops.compact`, of contiguous tensors.

    Args:
        arguments: the others of the op, as it takes them.
    """
    keep, sample_index, speed, history, logits, uncertainty, layer, *original = arguments
    new_hidden, *survivors, counts = results  # in between what is known of each survivor
    batch, labels = keep.shape[0], int(logits.shape[1])
    words = _as_words(hidden)
    destination = cu_seqlens.new_empty(batch)  # first row of each survivor in the new batch
    config = configs.COMPACT
    with torch.cuda.device_of(hidden):
        wrap(_place_kernel)[(max(1, triton.cdiv(batch, config.block_samples)),)](
            cu_seqlens,
            keep,
            sample_index,
            speed,
            history,
            *survivors,
            counts,
            destination,
            batch,
            hidden.shape[0],
            original[0].shape[0],
            BLOCK_SAMPLES=config.block_samples,
            num_warps=config.num_warps,
        )
        if batch > 0:
            wrap(_move_kernel)[(batch, _parts(words, batch, config.block_words))](
                words,
                cu_seqlens,
                destination,
                counts,
                sample_index,
                logits,
                uncertainty,
                new_hidden.view(words.dtype),
                *survivors,
                *original,
                labels,
                layer,
                ROW_WORDS=int(words.shape[1]),
                BLOCK_WORDS=config.block_words,
                BLOCK_LABELS=min(triton.next_power_of_2(labels), 1024),
                num_warps=config.num_warps,
            )


def _as_words(hidden: Tensor) -> Tensor:
    """Return the rows as the widest integers up to 4 bytes that fit, which Triton joins to 16-byte accesses: bits are
    moved, not numbers."""
    row_bytes, offset = hidden.shape[1] * hidden.element_size(), hidden.storage_offset() * hidden.element_size()
    for dtype in (torch.int32, torch.int16):
        if row_bytes % dtype.itemsize == 0 and offset % dtype.itemsize == 0:
            return hidden.view(dtype)
    return hidden.view(torch.int8)


def _parts(words: Tensor, batch: int, block_words: int) -> int:
    """Return the programs per sample: enough that one of mean length takes one step; a longer one takes more steps."""
    return min(max(1, triton.cdiv(words.numel(), batch * block_words)), 64)

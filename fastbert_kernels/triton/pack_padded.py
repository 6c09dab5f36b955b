"""Packing of a few padded texts as one Triton kernel of one program: what `engine.entrance.pack` does in some thirty
small operations, each of which takes a graph longer to start than to run."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_CELLS, MOST_SAMPLES = 512, 8  # a program compares every cell with every sample
NUM_WARPS = 8


@triton.jit
def _pack_padded_kernel(
    cells_ptr,
    control_ptr,
    speeds_ptr,
    words_ptr,
    positions_ptr,
    segments_ptr,
    bounds_ptr,
    sample_index_ptr,
    speed_ptr,
    fault_ptr,
    vocabulary,
    num_segments,
    first_position,
    longest,
    padding,
    FROM_THE_LEFT: tl.constexpr,
    CELLS: tl.constexpr,
    SAMPLES: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
):
    """Pack B samples of L cells, cell c = row * L + column. With v_c whether c is a token and f_b the first column of
    sample b with one, write id, token type and column - f_b + first_position of each token to row v_0 + .. + v_{c-1},
    and for each of SLOTS samples where it ends, its number from 1 and its Speed; 0 for the number where there is a
    fault, and 0 for all of those that are no samples of the call, which have no tokens.

    Memory traffic: 24 bytes of each cell read and 24 written.
    """
    samples = tl.load(control_ptr)
    length = tl.load(control_ptr + 1)
    masked = tl.load(control_ptr + 2) != 0
    typed = tl.load(control_ptr + 3)
    cell = tl.arange(0, CELLS)
    row = cell // length
    column = cell - row * length
    ids = tl.load(cells_ptr + cell)
    mask = tl.load(cells_ptr + CELLS + cell)
    types = tl.load(cells_ptr + 2 * CELLS + cell) * typed
    inside = row < samples
    valid = inside & ((mask != 0) | (masked == 0))
    outside = (ids < 0) | (ids >= vocabulary) | (types < 0) | (types >= num_segments)
    wrong = inside & (outside | (masked & (mask != 0) & (mask != 1)))

    sample = tl.arange(0, SAMPLES)
    owns = row[None, :] == sample[:, None]  # [SAMPLES, CELLS]
    count = tl.sum((owns & valid[None, :]).to(tl.int32), axis=1)
    first = tl.min(tl.where(owns & valid[None, :], column[None, :], CELLS), axis=1)
    real = sample < samples
    place = tl.cumsum(valid.to(tl.int32), axis=0) - 1
    if FROM_THE_LEFT:
        start = tl.sum(tl.where(owns, (tl.cumsum(count, axis=0) - count)[:, None], 0), axis=0)
        wrong |= valid & ((column != place - start) | (ids == padding))
    fault = tl.max(wrong.to(tl.int32), axis=0) | tl.max((real & (count == 0)).to(tl.int32), axis=0)
    tl.store(fault_ptr, fault)

    tokens = tl.sum(valid.to(tl.int32), axis=0)
    begin = tl.sum(tl.where(owns, first[:, None], 0), axis=0)
    position = tl.minimum(tl.maximum(column - begin, 0), longest - 1) + first_position
    word = tl.minimum(tl.maximum(ids, 0), vocabulary - 1)
    segment = tl.minimum(tl.maximum(types, 0), num_segments - 1)
    behind = cell >= tokens
    tl.store(words_ptr + cell, tl.zeros([CELLS], tl.int64), mask=behind)
    tl.store(positions_ptr + cell, tl.zeros([CELLS], tl.int64) + first_position, mask=behind)
    tl.store(segments_ptr + cell, tl.zeros([CELLS], tl.int64), mask=behind)
    tl.store(words_ptr + place, word, mask=valid)
    tl.store(positions_ptr + place, position.to(tl.int64), mask=valid)
    tl.store(segments_ptr + place, segment, mask=valid)

    tl.store(bounds_ptr, 0)
    tl.store(bounds_ptr + 1 + sample, tl.cumsum(count, axis=0))
    tl.store(sample_index_ptr + sample, tl.where(real & (fault == 0), sample + 1, 0))
    tl.store(speed_ptr + sample, tl.where(real, tl.load(speeds_ptr + sample), 0.0))
    slot = SAMPLES + tl.arange(0, BLOCK_SLOTS)
    dummy = slot < SLOTS
    tl.store(bounds_ptr + 1 + slot, tl.zeros([BLOCK_SLOTS], tl.int32) + tokens, mask=dummy)
    tl.store(sample_index_ptr + slot, tl.zeros([BLOCK_SLOTS], tl.int32), mask=dummy)
    tl.store(speed_ptr + slot, tl.zeros([BLOCK_SLOTS], tl.float32), mask=dummy)


def takes(cells: int, samples: int) -> bool:
    """Return whether the kernel packs so many cells and samples, which are powers of two."""
    return cells <= MOST_CELLS and samples <= MOST_SAMPLES


def pack_padded(
    cells: Tensor,
    numbers: Tensor,
    speeds: Tensor,
    batch: tuple[Tensor, Tensor, Tensor],
    fault: Tensor,
    *,
    vocabulary: int,
    num_segments: int,
    first_position: int,
    longest: int,
    from_the_left: bool,
    padding: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pack a call.

    Args:
        cells: int64 [3, T]; ids, mask and token types.
        numbers: int32 [4], as of `engine.entrance`.
        speeds: float32 [S].
        batch: cu_seqlens int32 [slots + 1], sample_index int32 [slots] and speed float32 [slots], which are filled.
        fault: int32 [1], which is filled.
        vocabulary: number of token ids.
        num_segments: number of token types.
        first_position: of a sample.
        longest: number of positions.
        from_the_left: as of `engine.entrance.Entrance`, and so the next.
        padding: an id.

    Returns:
        Ids, positions and token types, int64 [T], of the tokens; something in range behind them.
    """
    words, positions, segments = (torch.empty_like(cells[0]) for _ in range(3))
    slots = batch[1].shape[0]
    with torch.cuda.device_of(cells):
        _pack_padded_kernel[(1,)](
            cells,
            numbers,
            speeds,
            words,
            positions,
            segments,
            *batch,
            fault,
            vocabulary,
            num_segments,
            first_position,
            longest,
            padding,
            FROM_THE_LEFT=from_the_left,
            CELLS=cells.shape[1],
            SAMPLES=speeds.shape[0],
            SLOTS=slots,
            BLOCK_SLOTS=triton.next_power_of_2(max(1, slots - speeds.shape[0])),
            num_warps=NUM_WARPS,
        )
    return words, positions, segments

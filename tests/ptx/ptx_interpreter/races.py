"""Data races, found by what orders accesses and not by what happened: two threads touch a byte, one of them writes, and
neither a barrier of the block nor, within a warp, `bar.warp.sync` stands between. A shuffle orders no memory.

Each byte has a mark of its latest write and one of the reads since the last barrier. A mark is an int64:

    bits 13..  stamp: the block's epoch << 16 | the warp's epoch within it, at the time of the access
    bit 12     several blocks of the launch read it
    bit 11     several warps read it
    bit 10     several threads read it
    bits 0..9  the thread
"""

from __future__ import annotations

import itertools

import numpy as np

THREAD, WARP = 0x3FF, 0x3E0
MANY_THREADS, MANY_WARPS, MANY_BLOCKS = np.int64(1 << 10), np.int64(1 << 11), np.int64(1 << 12)
STAMP, EPOCH = 13, 29  # the bits where they begin


class Clock:
    """The epochs of the block that runs and of its warps. No epoch comes twice, whatever the clock, so old marks need
    no erasing."""

    _epochs = itertools.count(1)

    def __init__(self, threads: int) -> None:
        self._warp_epochs = np.zeros(threads, np.int64)
        self._numbers = np.arange(threads, dtype=np.int64)
        self.begin_launch()
        self.begin_block()

    def begin_launch(self) -> None:
        self._advance()
        self.launch = self.epoch

    def begin_block(self) -> None:
        self._advance()
        self.block = self.epoch

    def pass_barrier(self) -> None:
        self._advance()

    def pass_warp_barrier(self, mask: np.ndarray) -> None:
        self._warp_epochs += mask
        self._set_marks()

    def _advance(self) -> None:
        self.epoch = np.int64(next(self._epochs) << EPOCH)  # the smallest mark of the epoch
        self._warp_epochs[:] = 0
        self._set_marks()

    def _set_marks(self) -> None:
        self.marks = self.epoch | self._warp_epochs << STAMP | self._numbers


def thread_of(mark: np.int64) -> int:
    return int(mark & THREAD)


class RaceShadow:
    """The marks of a memory. Accesses are rows of `size` bytes: row r begins at byte r * size."""

    def __init__(self, size: int) -> None:
        self._writes = np.zeros(size, np.int64)
        self._reads = np.zeros(size, np.int64)

    def grow(self, size: int) -> None:
        self._writes = np.concatenate([self._writes, np.zeros(size, np.int64)])
        self._reads = np.concatenate([self._reads, np.zeros(size, np.int64)])

    def read(self, clock: Clock, rows: np.ndarray, size: int, threads: np.ndarray) -> tuple[int, int] | None:
        """Take in reads, one row a thread; returns the threads of a race, or None."""
        marks = clock.marks[threads][:, None]
        race = _find_race(clock, self._writes.reshape(-1, size)[rows], marks)
        reads = self._reads.reshape(-1, size)
        before = reads[rows]
        now = np.broadcast_to(marks, before.shape)
        if before.max(initial=0) >= clock.launch:
            now = _join(clock, before, marks)
        reads[rows] = now
        after = reads[rows]
        lost = after != now
        if lost.any():  # several threads read the same bytes in this instruction, and one mark is there
            index = np.nonzero(lost)
            place = (rows[index[0]], index[1])
            reads[place] |= MANY_THREADS
            other_warp = ((after ^ now)[index] & WARP) != 0
            reads[rows[index[0][other_warp]], index[1][other_warp]] |= MANY_THREADS | MANY_WARPS
        return race

    def write(
        self, clock: Clock, rows: np.ndarray, size: int, threads: np.ndarray, is_changed: np.ndarray
    ) -> tuple[int, int] | None:
        """The same for writes. A write that changes no byte races with reads alone: `is_changed` [threads, size]."""
        marks = clock.marks[threads][:, None]
        writes = self._writes.reshape(-1, size)
        race = _find_race(clock, writes[rows], marks, is_changed)
        race = race or _find_race(clock, self._reads.reshape(-1, size)[rows], marks)
        writes[rows] = marks
        return race

    def stamp(self, clock: Clock, rows: np.ndarray, size: int, threads: np.ndarray) -> None:
        """Set the time of writes that were taken in before to now."""
        self._writes.reshape(-1, size)[rows] = clock.marks[threads][:, None]


def _find_race(
    clock: Clock, before: np.ndarray, marks: np.ndarray, where: np.ndarray | bool = True
) -> tuple[int, int] | None:
    if before.max(initial=0) < clock.launch:
        return None
    difference = before ^ marks
    other_thread = (difference & THREAD) | (before & MANY_THREADS) != 0
    other_warp = (difference & WARP) | (before & MANY_WARPS) != 0
    same_time = difference >> STAMP == 0
    unordered = (before >= clock.epoch) & (other_warp | (other_thread & same_time))
    other_block = ((before >= clock.launch) & (before < clock.block)) | (before & MANY_BLOCKS != 0)
    races = (unordered | (other_block & (before >= clock.launch))) & where
    if not races.any():
        return None
    thread, byte = np.argwhere(races)[0]
    return thread_of(before[thread, byte]), thread_of(marks[thread, 0])


def _join(clock: Clock, before: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Marks of the reads so far and those at `marks`."""
    difference = before ^ marks
    same_warp = difference & WARP == 0
    one_warp = before & MANY_WARPS == 0
    alone = (before < clock.epoch) | (same_warp & one_warp & (difference >> STAMP != 0))
    joined = before | np.where(difference & THREAD != 0, MANY_THREADS, 0) | np.where(same_warp, 0, MANY_WARPS)
    other_block = (before >= clock.launch) & ((before < clock.block) | (before & MANY_BLOCKS != 0))
    return np.where(alone, marks, joined) | np.where(other_block, MANY_BLOCKS, 0)

"""The shared memory of a block, and the asynchronous copies into it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ptx_interpreter.checked_memory import POISON, CheckedMemory, Reporter
from ptx_interpreter.findings import Kind, Stopped


class Copies(NamedTuple):
    """Copies that one instruction started and that are still under way."""

    threads: np.ndarray  # [k]
    begins: np.ndarray  # [k]
    data: np.ndarray  # [k, size]
    groups: np.ndarray  # [k] which of its thread's groups each belongs to


class SharedMemory(CheckedMemory):
    name = "shared memory"

    def __init__(self, size: int, threads: int) -> None:
        super().__init__(-(-size // 16) * 16)
        self._size = size
        self._in_flight = np.zeros(self.data.size, np.bool_)
        self._copies: list[Copies] = []
        self._groups = np.zeros(threads, np.int64)  # that each thread has closed

    def check_bounds(self, reporter: Reporter, begins: np.ndarray, size: int, is_write: bool) -> None:
        outside = (begins < 0) | (begins + size > self._size)
        if outside.any():
            access = "write" if is_write else "read"
            reporter.report(Kind.OUT_OF_BOUNDS, f"{access} of {size} bytes at {self.describe(int(begins[outside][0]))}")
            raise Stopped

    def describe(self, byte: int) -> str:
        return f"byte {byte} of {self._size} of shared memory"

    def load(self, reporter: Reporter, begins: np.ndarray, size: int, threads: np.ndarray) -> np.ndarray:
        data = super().load(reporter, begins, size, threads)
        self._check_copies(reporter, "read", begins, size, threads)
        return data

    def store(self, reporter: Reporter, begins: np.ndarray, data: np.ndarray, threads: np.ndarray) -> None:
        super().store(reporter, begins, data, threads)
        self._check_copies(reporter, "written", begins, data.shape[1], threads)

    def start_copies(self, reporter: Reporter, begins: np.ndarray, data: np.ndarray, threads: np.ndarray) -> None:
        """Take in copies of `data` [k, size]: until its thread has waited, nobody may touch where one goes."""
        size = data.shape[1]
        rows = self._rows(reporter, begins, size, is_write=True)
        self._check_copies(reporter, "copied to", begins, size, threads)
        changes = np.ones(data.shape, np.bool_)
        self._report_race(reporter, self.races.write(reporter.clock, rows, size, threads, changes), begins)
        self._in_flight.reshape(-1, size)[rows] = True
        self.written.reshape(-1, size)[rows] = True
        self.data.reshape(-1, size)[rows] = POISON
        self._copies.append(Copies(threads, begins, data, self._groups[threads]))

    def close_group(self, threads: np.ndarray) -> None:
        self._groups[threads] += 1

    def wait(self, reporter: Reporter, mask: np.ndarray, pending: int) -> None:
        """Complete the copies of the threads `mask` but those of their latest `pending` groups."""
        left = []
        for copies in self._copies:
            threads, begins, data, groups = copies
            done = mask[threads] & (groups < self._groups[threads] - pending)
            if done.any():
                size = data.shape[1]
                rows = begins[done] // size
                self.data.reshape(-1, size)[rows] = data[done]
                self._in_flight.reshape(-1, size)[rows] = False
                self.races.stamp(reporter.clock, rows, size, threads[done])
            if not done.all():
                left.append(Copies(*(field[~done] for field in copies)))
        self._copies = left

    def check_end(self, reporter: Reporter) -> None:
        if self._copies:
            threads, begins, _, _ = self._copies[0]
            reporter.report(Kind.COPY_NOT_AWAITED, f"of thread {threads[0]} to {self.describe(int(begins[0]))}")

    def _check_copies(self, reporter: Reporter, verb: str, begins: np.ndarray, size: int, threads: np.ndarray) -> None:
        in_flight = self._in_flight.reshape(-1, size)[begins // size]
        if in_flight.any():
            access = np.argwhere(in_flight)[0, 0]
            place = self.describe(int(begins[access]))
            reporter.report(Kind.COPY_IN_FLIGHT, f"{place} is {verb} by thread {threads[access]}")

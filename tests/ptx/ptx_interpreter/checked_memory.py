"""Memory that knows of each byte whether somebody wrote it, and who touched it since the last barrier."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ptx_interpreter.findings import Kind, Stopped
from ptx_interpreter.races import Clock, RaceShadow

LAST_PLACES = 2.0**-21  # of float32, relative to the value
POISON = 0x7F  # of bytes that nobody wrote: floats of them are large


class Reporter(Protocol):
    clock: Clock
    copies_may_round: bool  # threads may write to one place what differs in the last places of float32

    def report(self, kind: Kind, detail: str) -> None: ...


class CheckedMemory:
    """Accesses name their bytes by where these begin, [k], and their threads [k]; data is [k, size] bytes."""

    name: str

    def __init__(self, size: int) -> None:
        self.data = np.full(size, POISON, np.uint8)
        self.written = np.zeros(size, np.bool_)
        self.races = RaceShadow(size)

    def check_bounds(self, reporter: Reporter, begins: np.ndarray, size: int, is_write: bool) -> None:
        raise NotImplementedError

    def describe(self, byte: int) -> str:
        raise NotImplementedError

    def load(self, reporter: Reporter, begins: np.ndarray, size: int, threads: np.ndarray) -> np.ndarray:
        rows = self._rows(reporter, begins, size, is_write=False)
        written = self.written.reshape(-1, size)[rows]
        if not written.all():
            self._report_first(reporter, Kind.UNINITIALISED, begins, ~written, threads)
        self._report_race(reporter, self.races.read(reporter.clock, rows, size, threads), begins)
        return self.data.reshape(-1, size)[rows]

    def store(self, reporter: Reporter, begins: np.ndarray, data: np.ndarray, threads: np.ndarray) -> None:
        size = data.shape[1]
        rows = self._rows(reporter, begins, size, is_write=True)
        memory = self.data.reshape(-1, size)
        race = self.races.write(reporter.clock, rows, size, threads, _differ(reporter, memory[rows], data))
        self._report_race(reporter, race, begins)
        memory[rows] = data
        if _differ(reporter, memory[rows], data).any():
            detail = f"threads write different values to one place, the first near {self.describe(int(begins[0]))}"
            reporter.report(Kind.RACE, detail)
        self.written.reshape(-1, size)[rows] = True

    def _rows(self, reporter: Reporter, begins: np.ndarray, size: int, is_write: bool) -> np.ndarray:
        odd = begins % size != 0
        if odd.any():
            reporter.report(Kind.MISALIGNED, f"{size} bytes at {self.describe(int(begins[odd][0]))}")
            raise Stopped
        self.check_bounds(reporter, begins, size, is_write)
        return begins // size

    def _report_race(self, reporter: Reporter, race: tuple[int, int] | None, begins: np.ndarray) -> None:
        if race is not None:
            detail = f"threads {race[0]} and {race[1]}, near {self.describe(int(begins[0]))}"
            reporter.report(Kind.RACE, detail)

    def _report_first(
        self, reporter: Reporter, kind: Kind, begins: np.ndarray, found: np.ndarray, threads: np.ndarray
    ) -> None:
        access, byte = np.argwhere(found)[0]
        place = self.describe(int(begins[access] + byte))
        reporter.report(kind, f"{place}, thread {threads[access]}")


def _differ(reporter: Reporter, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return which bytes of the rows [k, size] differ."""
    differ = before != after
    if reporter.copies_may_round and before.shape[1] % 4 == 0 and differ.any():
        close = np.isclose(before.view(np.float32), after.view(np.float32), rtol=LAST_PLACES, atol=0)
        differ &= ~np.repeat(close, 4, axis=1)
    return differ

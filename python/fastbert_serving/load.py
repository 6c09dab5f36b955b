"""Speed follows load: which of two calibrated settings new texts get, by the time that the queue is going to cost them.

The *careful* setting is the model's own, the *fast* one lets texts leave earlier; calibration has certified both. New
texts get the fast one while the p99 of their time to an answer, as predicted, is above the target.

- The work of a text is its number of tokens, times `ratio` by the careful setting; `ratio` is how many times the FLOPs
  speed-up of the careful setting that of the fast one is. Work done per second of computing is a mean of the recent
  past, in which older seconds count less, so it stays what it is when the setting changes. The work in flight over it
  is the time that a text arriving now is expected to take.
- The predicted p99 is that time and the 99th percentile of what the answers of the last seconds took beyond what was
  expected when they came; at least it is the age of the oldest text in flight, whose answer takes that long already.

Back to the careful setting it goes when the careful one would do, too: when for `HOLD_SECONDS` without a break `ratio`
times the predicted p99 has been below `CALM` of the target, and `ratio` times the share of the time that was spent
computing below `BUSY`, or when for as long nobody was in flight. So a load that only the fast setting carries does not
make the server change to and fro.
"""

from __future__ import annotations

import bisect
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

HOLD_SECONDS = 5.0
CALM = 0.5
BUSY = 0.9

_MEMORY_SECONDS = 5.0  # after which a second of the past counts e times less
_RECENT_SECONDS = 10.0
_MOST_RECENT = 1000  # answers


@dataclass(frozen=True)
class Ticket:
    """A request in flight.

    Attributes:
        number: in the order of arrival.
        fast: whether it got the fast setting.
        work: of its texts.
        begin: when it came.
        expected: seconds that it was expected to take.
    """

    number: int
    fast: bool
    work: float
    begin: float
    expected: float


class LoadController:
    """Chooses between the careful and the fast setting; several threads may use one."""

    def __init__(self, target: float, ratio: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            target: seconds, of the p99.
            ratio: FLOPs speed-up of the fast setting over that of the careful one.
            clock: returns seconds.

        Raises:
            ValueError: no target, or a fast setting that is not the faster one.
        """
        if not 0 < target < math.inf:
            raise ValueError(f"the target of the p99 must be above 0 seconds, got {target:g}")
        if not 1 < ratio < math.inf:
            raise ValueError(f"the fast setting must be faster than the careful one, and is {ratio:.3g} times as fast")
        self.target, self.ratio, self._clock = target, ratio, clock
        self._lock = threading.Lock()
        self._fast, self._changes = False, 0
        self._calm_since = self._idle_since = math.inf
        self._numbers = itertools.count()
        self._in_flight: dict[int, Ticket] = {}
        self._work_in_flight = 0.0
        self._began = self._updated = clock()
        self._work_done = self._computed = 0.0  # work and seconds, older ones counting less
        self._recent: deque[tuple[float, float]] = deque()  # when, and seconds beyond what was expected
        self._sorted: list[float] = []  # the latter

    @property
    def fast(self) -> bool:
        """Return True while new texts get the fast setting."""
        with self._lock:
            self._decide(self._now())
            return self._fast

    @property
    def changes(self) -> int:
        """Return how often the setting of new texts has changed so far."""
        with self._lock:
            return self._changes

    @property
    def predicted_p99(self) -> float:
        """Return the predicted p99 of a text that comes now, in seconds."""
        with self._lock:
            return self._predict(self._now())

    def enter(self, tokens: int, begin: float, *, follows: bool) -> Ticket:
        """Let a request in, and say which setting it gets.

        Args:
            tokens: of all its texts.
            begin: when it came, on the clock.
            follows: whether its texts leave by a setting; those of others count as work only.
        """
        with self._lock:
            now = self._now()
            self._decide(now)
            fast = follows and self._fast
            work = float(tokens) if fast else tokens * self.ratio
            ticket = Ticket(next(self._numbers), fast, work, begin, self._expected())
            self._in_flight[ticket.number] = ticket
            self._work_in_flight += work
            return ticket

    def leave(self, ticket: Ticket, *, answered: bool) -> None:
        """Take note that a request has its answer, or has left without one."""
        with self._lock:
            now = self._now()
            del self._in_flight[ticket.number]
            self._work_in_flight = self._work_in_flight - ticket.work if self._in_flight else 0.0
            if not self._in_flight:
                self._idle_since = now
            if answered:
                self._work_done += ticket.work
                beyond = now - ticket.begin - ticket.expected
                self._recent.append((now, beyond))
                bisect.insort(self._sorted, beyond)
            self._decide(now)

    def computed(self, seconds: float) -> None:
        """Take note of seconds that were spent computing."""
        with self._lock:
            self._now()
            self._computed += seconds

    def _now(self) -> float:
        """Return the time, and let what is past count less."""
        now = self._clock()
        less = math.exp(-(now - self._updated) / _MEMORY_SECONDS)
        self._work_done, self._computed, self._updated = self._work_done * less, self._computed * less, now
        while self._recent and (self._recent[0][0] < now - _RECENT_SECONDS or len(self._recent) > _MOST_RECENT):
            del self._sorted[bisect.bisect_left(self._sorted, self._recent.popleft()[1])]
        return now

    def _expected(self) -> float:
        """Return the seconds in which the work in flight will be done; 0 as long as nothing is known."""
        return self._work_in_flight * self._computed / self._work_done if self._work_done else 0.0

    def _predict(self, now: float) -> float:
        beyond = self._sorted[math.ceil(0.99 * len(self._sorted)) - 1] if self._sorted else 0.0
        oldest = next(iter(self._in_flight.values())).begin if self._in_flight else now
        return max(self._expected() + beyond, now - oldest)

    def _decide(self, now: float) -> None:
        predicted = self._predict(now)
        if not self._fast:
            if predicted > self.target:
                self._fast, self._calm_since = True, math.inf
                self._changes += 1
            return
        memory = _MEMORY_SECONDS * -math.expm1(-(now - self._began) / _MEMORY_SECONDS)
        calm = self.ratio * predicted < CALM * self.target and self.ratio * self._computed < BUSY * memory
        self._calm_since = min(self._calm_since, now) if calm else math.inf
        since = self._calm_since if self._in_flight else min(self._calm_since, self._idle_since)
        if now - since >= HOLD_SECONDS:
            self._fast = False
            self._changes += 1

"""Speed follows load: which of two calibrated settings new texts get, by the time that the queue is going to cost them.

The *careful* setting is the model's own, the *fast* one lets texts leave earlier; calibration has certified both. New
texts get the fast one while the p99 of their time to an answer, as predicted, is above the target.

- The work of a text is its number of tokens, times `ratio` by the careful setting; `ratio` is how many times the FLOPs
  speed-up of the careful setting that of the fast one is. Work done per second of computing is a mean of the recent
  past, in which older seconds count less, so it stays what it is when the setting changes. The work in flight over it
  is the time that a text arriving now is expected to take.
- The predicted p99 is that time and the 99th percentile of what the answers of the last seconds took beyond what was
  expected when they came; at least it is the age of the oldest text in flight, whose answer takes that long already.
  When for `HOLD_SECONDS` nobody was in flight, there is no queue that those answers could tell of, and they are
  forgotten.

Back to the careful setting it goes when the careful one would do, too: when for `HOLD_SECONDS` without a break `ratio`
times the predicted p99 has been below `CALM` of the target, and `ratio` times the share of the time that was spent
computing below `BUSY`, or when for as long nobody was in flight. So a load that only the fast setting carries does not
make the server change to and fro.

The setting at a moment follows from what came, left and was computed before it, and when. Whoever looks changes nothing
by it: while nothing happens the prediction can only grow, with the age of the oldest text in flight, or be forgotten,
so what has become of the setting meanwhile is still known when something happens again.
"""

from __future__ import annotations

import bisect
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@dataclass(frozen=True)
class Look:
    """What a controller says at one moment.

    Attributes:
        fast: whether new texts get the fast setting.
        changes: how often the setting of new texts has changed so far.
        predicted_p99: of a text that comes now, in seconds.
    """

    fast: bool
    changes: int
    predicted_p99: float


@dataclass(frozen=True)
class _Setting:
    """That of new texts; `calm_since`: when the careful one began to do, too, infinity where it does not."""

    fast: bool = False
    changes: int = 0
    calm_since: float = math.inf


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
        self._setting = _Setting()  # when something last happened
        self._numbers = itertools.count()
        self._in_flight: dict[int, Ticket] = {}
        self._work_in_flight = 0.0
        self._began = self._updated = self._idle_since = clock()
        self._work_done = self._computed = 0.0  # work and seconds, older ones counting less
        self._recent: deque[tuple[float, float]] = deque()  # when, and seconds beyond what was expected
        self._sorted: list[float] = []  # the latter

    def look(self) -> Look:
        """Return what holds now."""
        with self._lock:
            now = self._clock()
            setting = self._setting_at(now)
            return Look(setting.fast, setting.changes, self._predicted_at(now))

    def enter(self, tokens: int, begin: float, *, follows: bool) -> Ticket:
        """Let a request in, and say which setting it gets.

        Args:
            tokens: of all its texts.
            begin: when it came, on the clock.
            follows: whether its texts leave by a setting; those of others count as work only.
        """
        with self._happening() as now:
            fast = follows and self._setting_at(now).fast
            work = float(tokens) if fast else tokens * self.ratio
            ticket = Ticket(next(self._numbers), fast, work, begin, self._expected())
            self._in_flight[ticket.number] = ticket
            self._work_in_flight += work
            return ticket

    def leave(self, ticket: Ticket, *, answered: bool) -> None:
        """Take note that a request has its answer, or has left without one."""
        with self._happening() as now:
            del self._in_flight[ticket.number]
            self._work_in_flight = self._work_in_flight - ticket.work if self._in_flight else 0.0
            if not self._in_flight:
                self._idle_since = now
            if answered:
                self._work_done += ticket.work
                beyond = now - ticket.begin - ticket.expected
                self._recent.append((now, beyond))
                bisect.insort(self._sorted, beyond)

    def computed(self, seconds: float) -> None:
        """Take note of seconds that were spent computing."""
        with self._happening():
            self._computed += seconds

    @contextmanager
    def _happening(self) -> Iterator[float]:
        """Yield the time of what happens in the block, with the setting as it was until then and as it is behind it."""
        with self._lock:
            now = self._clock()
            self._setting = self._setting_at(now)
            self._forget(now)
            yield now
            self._setting = self._setting_at(now)

    def _forget(self, now: float) -> None:
        """Let what is past count less, or no more."""
        less = math.exp(-(now - self._updated) / _MEMORY_SECONDS)
        self._work_done, self._computed, self._updated = self._work_done * less, self._computed * less, now
        oldest = math.inf if self._long_idle_at(now) else now - _RECENT_SECONDS
        while self._recent and (self._recent[0][0] < oldest or len(self._recent) > _MOST_RECENT):
            del self._sorted[bisect.bisect_left(self._sorted, self._recent.popleft()[1])]

    def _long_idle_at(self, moment: float) -> bool:
        """Return True where nobody is in flight, and nobody was for `HOLD_SECONDS`."""
        return not self._in_flight and self._idle_since + HOLD_SECONDS <= moment

    def _expected(self) -> float:
        """Return the seconds in which the work in flight will be done; 0 as long as nothing is known."""
        return self._work_in_flight * self._computed / self._work_done if self._work_done else 0.0

    def _predicted_at(self, moment: float) -> float:
        """Return the predicted p99 at a moment before which nothing more happens."""
        if self._long_idle_at(moment):
            return 0.0
        beyond = self._sorted[math.ceil(0.99 * len(self._sorted)) - 1] if self._sorted else 0.0
        oldest = next(iter(self._in_flight.values())).begin if self._in_flight else moment
        return max(self._expected() + beyond, moment - oldest)

    def _setting_at(self, moment: float) -> _Setting:
        """Return what the setting has become at a moment before which nothing more happens."""
        fast, changes, calm_since = self._setting.fast, self._setting.changes, self._setting.calm_since
        back = calm_since + HOLD_SECONDS
        if fast and (self._long_idle_at(moment) or (back <= moment and self._calm_at(back))):
            fast, changes, calm_since = False, changes + 1, math.inf
        if not fast and self._predicted_at(moment) > self.target:
            fast, changes = True, changes + 1
        if not fast:
            return _Setting(fast, changes)
        return _Setting(fast, changes, min(calm_since, moment) if self._calm_at(moment) else math.inf)

    def _calm_at(self, moment: float) -> bool:
        """Return whether the careful setting would do."""
        if self.ratio * self._predicted_at(moment) >= CALM * self.target:
            return False
        computed = self._computed * math.exp(-(moment - self._updated) / _MEMORY_SECONDS)
        memory = _MEMORY_SECONDS * -math.expm1(-(moment - self._began) / _MEMORY_SECONDS)
        return self.ratio * computed < BUSY * memory

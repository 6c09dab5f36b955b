"""The end of a server under load: whom it may leave without an answer, and whom not."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

# So long a client uses a connection on which it has had an answer; the server closes one that nobody has used for 5.
MOST_IDLE_SECONDS = 2.0


class Ending:
    """Says of requests without an answer whether the end of their server excuses it.

    A server that is killed may drop everybody, and reaches nobody until it is started again. One that is told to end
    has to answer, or to refuse, everybody whose request was sent before: the system has taken it by then, whether the
    server has seen it or not.
    """

    def __init__(self, *, in_order: bool) -> None:
        """
        Args:
            in_order: the server is told to end; or else it is killed.
        """
        self._in_order, self._told, self._again = in_order, math.inf, math.inf

    def begin(self) -> None:
        """Take note of the time; to be called just before the server is told."""
        self._told = time.monotonic()

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Kill the server in the block, and start it again."""
        self.begin()
        yield
        # Or when nobody comes any more on a connection to the one that was killed.
        self._again = max(time.monotonic(), self._told + MOST_IDLE_SECONDS)

    def was_told_behind(self, sent: float) -> bool:
        """Return whether the server was told to end behind a request that was sent whole at a time, and by now."""
        return self._in_order and sent <= self._told < math.inf

    def excuses(self, begun: float, sent: float | None) -> bool:
        """Return whether a request that has just been lost may be without an answer.

        Args:
            begun: when the client turned to the server.
            sent: when it had been sent whole; None where it could not be.
        """
        if self._told == math.inf:
            return False
        return sent is None or sent > self._told if self._in_order else begun <= self._again

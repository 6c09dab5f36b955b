"""The end of a server under load: whom it may leave without an answer, and whom not."""

from __future__ import annotations

import math
import time


class Ending:
    """Says of requests without an answer whether the end of their server excuses it.

    A server that is killed may drop everybody. One that is told to end has to answer, or to refuse, everybody whose
    request was sent before: the system has taken it by then, whether the server has seen it or not.
    """

    def __init__(self, *, in_order: bool) -> None:
        """
        Args:
            in_order: the server is told to end; or else it is killed.
        """
        self._in_order, self._told = in_order, math.inf

    def begin(self) -> None:
        """Take note of the time; to be called just before the server is told."""
        self._told = time.monotonic()

    def was_told_behind(self, sent: float) -> bool:
        """Return whether the server was told to end behind a request that was sent whole at a time, and by now."""
        return self._in_order and sent <= self._told < math.inf

    def excuses(self, sent: float | None) -> bool:
        """Return whether a request may be without an answer.

        Args:
            sent: when it had been sent whole; None where it could not be.
        """
        return not self._in_order or (self._told < math.inf and (sent is None or sent > self._told))

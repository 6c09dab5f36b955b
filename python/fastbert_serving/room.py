"""The room for texts in flight, which large requests find as often as small ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastbert_serving.errors import overloaded


class Room:
    """Says when the next request may enter a pool.

    One may while fewer rows and fewer tokens are in flight than a limit says, however many it brings itself. So none is
    told to come again for ever while smaller ones slip past it: where a small one is let in, a large one is, too. As
    long as no request brings more than the limit says, fewer than twice as many are in flight.
    """

    def __init__(self, in_flight: Callable[[], tuple[int, int]], max_samples: int, max_tokens: int) -> None:
        """
        Args:
            in_flight: returns the rows in the pool and their tokens.
            max_samples: rows in flight from which on nobody is let in.
            max_tokens: tokens in flight from which on nobody is let in.
        """
        self._in_flight, self._max_samples, self._max_tokens = in_flight, max_samples, max_tokens
        self._lock = threading.Lock()

    @contextmanager
    def entering(self) -> Iterator[None]:
        """Let a request enter in the block, behind which `in_flight` counts it; from any thread, one after the other.

        Raises:
            Refusal: there is no room (429).
        """
        with self._lock:
            samples, tokens = self._in_flight()
            if samples >= self._max_samples or tokens >= self._max_tokens:
                raise overloaded(
                    f"{samples} texts with {tokens} tokens are in flight, as many as there may be before one more "
                    "request; send it again later"
                )
            yield

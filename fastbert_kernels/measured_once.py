"""What a process measures once and keeps, whichever of its threads asks first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from fastbert_kernels.forks import in_forked_children

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class MeasuredOnce(Generic[Key, Value]):
    """Values by what they hold for. A forked child has its parent's, and a lock of its own."""

    def __init__(self) -> None:
        self._values: dict[Key, Value] = {}
        self._renew()
        in_forked_children(self._renew)

    def get(self, key: Key, measure: Callable[[], Value]) -> Value:
        """Return the value for `key`, measured now where it is not there; other threads wait for the measurement."""
        with self._lock:
            if key not in self._values:
                self._values[key] = measure()
            return self._values[key]

    def _renew(self) -> None:
        self._lock = threading.Lock()

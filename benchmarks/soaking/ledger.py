"""What became of every request."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

_MOST_FAULTS = 20  # that are kept in words


class Ledger:
    """Counts, which several threads may add to.

    Attributes:
        faults: the first of what must not be, in words.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        """
        Args:
            secrets: strings that no refusal may hold: texts and paths.
        """
        self.faults: list[str] = []
        self._secrets, self._lock = secrets, threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, outcome: str) -> None:
        """Count an outcome, such as "answered" or "a wrong key: 401"."""
        with self._lock:
            self._counts[outcome] += 1

    def fault(self, what: str) -> None:
        """Take note of something that must not be."""
        with self._lock:
            self._counts["fault"] += 1
            if len(self.faults) < _MOST_FAULTS:
                self.faults.append(what)

    def check_refusal(self, body: str) -> None:
        """Take note of a refusal's body that tells a text or a path."""
        if any(secret in body for secret in self._secrets):
            self.fault(f"a refusal tells a text or a path: {body[:300]}")

    def __getitem__(self, outcome: str) -> int:
        with self._lock:
            return self._counts[outcome]

    def counts(self) -> dict[str, int]:
        """Return all counts by outcome."""
        with self._lock:
            return dict(sorted(self._counts.items()))

"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

# Called with the name of a step, how much of it is done, and how much there is in all.
Progress: TypeAlias = Callable[[str, int, int], None]


def no_progress(step: str, done: int, total: int) -> None:
    """Show nothing."""

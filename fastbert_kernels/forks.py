"""What a forked child has of its own."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_forked_children(renew: Callable[[], object]) -> None:
    """Call `renew` at the beginning of every child that is forked from here on.

    It makes new locks, above all: a thread that has one in the parent is not there in the child to give it back.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)

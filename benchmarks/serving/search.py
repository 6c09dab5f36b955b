"""Goodput: the highest load at which hardly anybody waits for longer than a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

LIMITS = (0.025, 0.1)  # seconds, of the 99th percentile
LATE_SHARE = 0.01  # of the requests, at a 99th percentile
STEP = 1.12  # from one load to the next
TRIES = 2  # of a load before it is taken for too high, each with another seed: a stall is not the server's limit
LOWEST = 2.0  # requests per second: a load with a 99th percentile takes most of a minute there


def grid(highest: float, lowest: float) -> list[float]:
    """Return loads from `highest` down to about `lowest`, ascending, each a fixed factor above the one before."""
    rates = [highest]
    while rates[-1] > lowest:
        rates.append(rates[-1] / STEP)
    return rates[::-1]


def goodput(rates: Sequence[float], late_share: Callable[[float], float]) -> float:
    """Return the highest of some loads at which at most 1 % of the requests are late; 0 where there is none.

    By bisection, so that it takes the logarithm of their number, and takes for granted that a lower load is not worse.

    Args:
        rates: loads, ascending.
        late_share: a load -> the share of its requests that took longer than the limit.
    """
    good, bad = -1, len(rates)
    while bad - good > 1:
        middle = (good + bad) // 2
        if late_share(rates[middle]) <= LATE_SHARE:
            good = middle
        else:
            bad = middle
    return 0.0 if good < 0 else rates[good]


def percentile(latencies: Sequence[float], percent: float) -> float:
    """Return the seconds within which that many of a hundred requests were answered: the 99th percentile is within a
    limit if, and only if, at most 1 % of them took longer."""
    ordered = sorted(latencies)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]

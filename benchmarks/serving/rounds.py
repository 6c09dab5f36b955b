"""What the rounds of a run say: goodputs, ratios within a round, and how far the rounds are apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Known:
    """A figure that is 0 or more, or what is known of it: it is `low` at least, and `high` at most."""

    low: float
    high: float

    @classmethod
    def exactly(cls, figure: float) -> Known:
        return cls(figure, figure)

    def over(self, other: Known) -> Known:
        """Return how many times the other one this is."""
        return Known(self.low / other.high, self.high / other.low if other.low else math.inf)


_UNKNOWN = Known(0.0, math.inf)


def goodputs(searches: Sequence[Mapping[str, Any]], contestant: str, limit: float) -> dict[int, Known]:
    """Return a contestant's goodput within a limit, by round.

    Where no load of a round was good it is below the lowest one that the round tried.
    """
    found = {}
    for one in searches:
        if one["contestant"] == contestant:
            rate = one["goodput"][f"{1e3 * limit:g}"]
            lowest = min(tried["rate"] for tried in one["tried"])
            found[one["round"]] = Known.exactly(rate) if rate else Known(0.0, lowest)
    return found


def rate_in_words(rate: Known) -> str:
    """Return requests per second in words: whole ones, or from 10 down with a decimal; a bound is rounded up."""
    parts = 10 if rate.high < 10 else 1
    if rate.low == 0:
        return f"< {math.ceil(rate.high * parts) / parts:g}"
    ends = dict.fromkeys(f"{round(end * parts) / parts:g}" for end in (rate.low, rate.high))
    return " to ".join(ends)


def ratio_in_words(ratio: Known) -> str:
    """Return a ratio of which something is known in words."""
    if ratio.low == ratio.high:
        return f"{ratio.low:.2f}x"
    if math.isinf(ratio.high):
        return f"more than {ratio.low:.2f}x"
    return f"between {ratio.low:.2f}x and {ratio.high:.2f}x" if ratio.low else f"less than {ratio.high:.2f}x"


def over(own: Mapping[int, Known], base: Mapping[int, Known]) -> str:
    """Return in words how many times the figures of another contestant these are, within a round, since what disturbs a
    round disturbs both; "" where no round says anything."""
    ratios = [own[number].over(base[number]) for number in own]
    known = [one for one in ratios if one != _UNKNOWN]
    if not known:
        return ""
    unknown = len(ratios) - len(known)
    return told(known, ratio_in_words) + (f", unknown in {unknown} of {len(ratios)} rounds" if unknown else "")


def told(rounds: Sequence[Known], in_words: Callable[[Known], str]) -> str:
    """Return what the rounds found: their range, behind their median, which is none of fewer than three rounds."""
    figures: tuple[Callable[[list[float]], float], ...] = (min, statistics.median, max)
    least, middle, most = (
        in_words(Known(figure([one.low for one in rounds]), figure([one.high for one in rounds]))) for figure in figures
    )
    if least == most:
        return least
    return f"{least} to {most}" if len(rounds) < 3 else f"{middle}, {least} to {most}"

"""When requests come: open-loop arrivals, which wait for no answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

BURST_RATE, BURST_SHARE, BURST_SECONDS = 3.0, 0.2, 0.2  # over the mean rate; of all time; of one burst on average


def poisson(rate: float, draw: random.Random) -> Iterator[float]:
    """Yield the moments, in seconds, at which independent clients come.

    Args:
        rate: per second.
        draw: source of randomness.
    """
    now = 0.0
    while True:
        now += draw.expovariate(rate)
        yield now


def bursty(rate: float, draw: random.Random) -> Iterator[float]:
    """Yield moments at which clients come in bursts: a Poisson process whose rate is now three times the mean, now half
    of it.

    Args:
        rate: per second, on average.
        draw: source of randomness.
    """
    calm = rate * (1 - BURST_RATE * BURST_SHARE) / (1 - BURST_SHARE)
    now, end, high = 0.0, 0.0, draw.random() < BURST_SHARE
    while True:
        if now >= end:
            high = not high
            end = now + draw.expovariate(1 / (BURST_SECONDS if high else BURST_SECONDS / BURST_SHARE - BURST_SECONDS))
        coming = now + draw.expovariate(BURST_RATE * rate if high else calm)
        now = min(coming, end)  # a process without memory begins anew where its rate changes
        if coming < end:
            yield now


ARRIVALS: dict[str, Callable[[float, random.Random], Iterator[float]]] = {"Poisson": poisson, "bursty": bursty}


def moments(kind: str, rate: float, count: int, seed: int) -> list[float]:
    """Return when `count` requests come, in seconds from 0, stretched so that they have exactly the mean rate.

    Args:
        kind: a key of `ARRIVALS`.
        rate: per second.
        count: of requests, at least 1.
        seed: those of one seed come in one pattern.
    """
    coming = ARRIVALS[kind](rate, random.Random(seed))
    drawn = [next(coming) for _ in range(count)]
    stretch = count / rate / drawn[-1]
    return [moment * stretch for moment in drawn]


def text_order(seed: int, count: int, texts: int) -> list[int]:
    """Return which of so many texts each of `count` requests has."""
    return random.Random(seed).choices(range(texts), k=count)

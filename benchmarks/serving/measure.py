"""Loads sent to running servers: answers checked, goodput searched, latencies at equal load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.arrivals import moments, text_order
from serving.hosting import Hosted
from serving.load import Generator, Load, Outcome, http_request
from serving.search import LATE_SHARE, LIMITS, TRIES, goodput, percentile
from serving.subjects import Facts, Subject

_FEWEST_REQUESTS = 200  # of a load, so that there is a 99th percentile
_FEWEST_AT_LOW_LOAD = 100  # of a load that took longer than this many seconds with more, of which one may be late
_LONGEST_SECONDS = 50.0
_HOPELESS_SECONDS = 1.0  # at equal load
_SEED_OF_NEXT_TRY = 1000  # more: no round has the seeds of another one's second try
_CAPACITY_CONNECTIONS = 64  # clients of whom each asks again when it has its answer


@dataclass
class Bench:
    """Servers of one subject, and the generator that sends them loads.

    Attributes:
        servers: by name of the contestant.
        subject: that they serve.
        generator: of loads.
        seconds: of a load, about.
        fewest: requests of a load; half of the 200 are enough where more of them took minutes to come.
        cpu_seconds: of the generator, so far.
        sent: requests of loads, so far.
        lateness: of all of them.
    """

    servers: Mapping[str, Hosted]
    subject: Subject
    generator: Generator
    seconds: float
    fewest: int = _FEWEST_REQUESTS
    cpu_seconds: float = 0.0
    sent: int = 0
    lateness: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        speeds = self.subject.speeds or [None] * len(self.subject.texts)
        bodies = [
            {"inputs": text, "truncate": True} | ({} if speed is None else {"speed": speed})
            for text, speed in zip(self.subject.texts, speeds, strict=True)
        ]
        self._requests = [http_request("/predict", json.dumps(body).encode()) for body in bodies]

    def everything(self, contestant: str, connections: int, times: int = 1) -> Outcome:
        """Send all texts as fast as so many clients can, each of whom waits for its answer before it asks again.

        Args:
            contestant: to whom.
            connections: clients.
            times: how often each text is sent.
        """
        requests = self._requests * times
        load = Load(self.servers[contestant].port, requests, [0.0] * len(requests), connections, keep_answers=True)
        return self._checked(contestant, self.generator(load))

    def offer(self, contestant: str, kind: str, rate: float, seed: int, hopeless: float) -> tuple[Outcome, float]:
        """Send an open-loop load.

        Args:
            contestant: to whom.
            kind: of the arrivals.
            rate: requests per second.
            seed: of arrivals and texts; those of one seed and rate are one load.
            hopeless: as of `Load`.

        Returns:
            What became of it, and the server's CPU seconds meanwhile.
        """
        count = self.requests_of(rate)
        order = text_order(seed, count, len(self._requests))
        server = self.servers[contestant]
        before = server.cpu_seconds()
        load = Load(
            server.port,
            [self._requests[place] for place in order],
            moments(kind, rate, count, seed),
            hopeless_seconds=hopeless,
        )
        outcome = self.generator(load)
        seconds = server.cpu_seconds() - before
        self.cpu_seconds += outcome.cpu_seconds
        self.sent += sum(outcome.statuses.values())
        self.lateness += outcome.lateness
        if outcome.gave_up:  # until those who were given up on are out of the way
            few = self._requests[:4]
            self.generator(Load(server.port, few, [0.0] * len(few), len(few)))
        return self._checked(contestant, outcome), seconds

    def requests_of(self, rate: float) -> int:
        """Return how many requests a load has that comes at so many per second."""
        fewest = min(self.fewest, max(_FEWEST_AT_LOW_LOAD, round(rate * _LONGEST_SECONDS)))
        return max(fewest, round(rate * self.seconds))

    def _checked(self, contestant: str, outcome: Outcome) -> Outcome:
        wrong = {status: count for status, count in outcome.statuses.items() if status != 200}
        if wrong:
            raise RuntimeError(f"{contestant} refused requests, by status: {wrong}")
        return outcome


def check_answers(bench: Bench, contestant: str, facts: Facts) -> dict[str, Any]:
    """Return how many labels of a contestant are those of our model, at its exits and at full depth, and at which rate
    it answers when there is always enough to do."""
    answers = bench.everything(contestant, 8).answers
    labels = [json.loads(body)[0]["label"] for body in answers]
    return {
        "texts": len(labels),
        "labels_of_exits": sum(found == wanted for found, wanted in zip(labels, facts.labels, strict=True)),
        "labels_of_full_depth": sum(
            found == wanted for found, wanted in zip(labels, facts.full_depth_labels, strict=True)
        ),
        "capacity": capacity(bench, contestant),
    }


def capacity(bench: Bench, contestant: str) -> float:
    """Return the texts per second of a contestant that always has enough to do."""
    once = bench.everything(contestant, _CAPACITY_CONNECTIONS)
    times = max(1, round(bench.seconds / once.seconds))
    return times * len(once.latencies) / bench.everything(contestant, _CAPACITY_CONNECTIONS, times).seconds


def search(bench: Bench, contestant: str, kind: str, rates: Sequence[float], seed: int) -> dict[str, Any]:
    """Return the goodput of a contestant within each limit, 0 where no load is good, and the loads that were tried.

    A load that is bad is tried again before it is believed: bisection never comes back above it.

    Args:
        bench: of its server.
        contestant: by name.
        kind: of the arrivals.
        rates: loads, requests per second, ascending; the same for all contestants who are held against each other.
        seed: of arrivals and texts, at the first try of a load.
    """
    tried: dict[float, list[Outcome]] = {}

    def late_share(rate: float, limit: float) -> float:
        tries = tried.setdefault(rate, [])  # also under a wider limit: where that was kept they say all of this one
        while min((one.late_share(limit) for one in tries), default=1.0) > LATE_SHARE and len(tries) < TRIES:
            tries.append(bench.offer(contestant, kind, rate, seed + _SEED_OF_NEXT_TRY * len(tries), limit)[0])
        return min(one.late_share(limit) for one in tries)

    found: dict[float, float] = {}
    for limit in sorted(LIMITS, reverse=True):
        found[limit] = goodput(rates, lambda rate, limit=limit: late_share(rate, limit))
        rates = [rate for rate in rates if rate <= found[limit]]
    return {
        "contestant": contestant,
        "goodput": {f"{1e3 * limit:g}": found[limit] for limit in LIMITS},
        "tried": [
            {"rate": rate, "requests": len(outcome.latencies), "gave_up": outcome.gave_up}
            | ({} if outcome.gave_up else quantiles(outcome))
            for rate, tries in sorted(tried.items())
            for outcome in tries
        ],
    }


def at_equal_load(bench: Bench, contestant: str, kind: str, rate: float, seed: int) -> dict[str, Any]:
    """Return latencies of a contestant at a load, and its CPU seconds per 1,000 texts."""
    outcome, cpu_seconds = bench.offer(contestant, kind, rate, seed, _HOPELESS_SECONDS)
    answered = sum(outcome.statuses.values())
    return {
        "contestant": contestant,
        "overloaded": outcome.gave_up,
        "cpu_seconds_per_1000": 1e3 * cpu_seconds / max(answered, 1),
        **({} if outcome.gave_up else quantiles(outcome)),
    }


def quantiles(outcome: Outcome) -> dict[str, float]:
    """Return p50, p95 and p99 of the latencies, in seconds."""
    return {f"p{percent}": percentile(outcome.latencies, percent) for percent in (50, 95, 99)}


def generator_cost(bench: Bench) -> dict[str, float]:
    """Return what the generator takes: CPU seconds per 1,000 requests, and the 99th percentile of its own lateness."""
    return {
        "cpu_seconds_per_1000": 1e3 * bench.cpu_seconds / max(bench.sent, 1),
        "p99_lateness": percentile(bench.lateness, 99) if bench.lateness else 0.0,
    }

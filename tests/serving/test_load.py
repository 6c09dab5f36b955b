"""Speed follows load: a queue simulated against a clock of its own, with and without the controller."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from fastbert_serving.load import HOLD_SECONDS, LoadController

RATIO, TOKENS, CAREFUL_SECONDS = 4.0, 10, 0.02  # so the careful setting carries 50 requests a second, the fast one 200
TARGET = 0.5


@dataclass
class Run:
    """What a simulation saw: when each request came, what it took, whether it was fast; and the changes."""

    came: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    fast: list[bool] = field(default_factory=list)
    changes: int = 0
    at_the_end: bool = False

    def p99(self) -> float:
        return sorted(self.took)[int(0.99 * len(self.took))]

    def share_of_fast(self, begin: float, end: float) -> float:
        chosen = [fast for came, fast in zip(self.came, self.fast, strict=True) if begin <= came < end]
        return sum(chosen) / len(chosen)


def simulate(phases, controlled=True, idle=0.0) -> Run:
    """One server that answers one request after another.

    Args:
        phases: seconds, and requests a second that come in them at random.
        controlled: False: all by the careful setting.
        idle: seconds after which the controller is asked once more.
    """
    arrivals, start, generator = [], 0.0, random.Random(7)
    for seconds, rate in phases:
        now = start
        while rate and (now := now + generator.expovariate(rate)) < start + seconds:
            arrivals.append(now)
        start += seconds
    clock = [0.0]
    controller = LoadController(TARGET, RATIO, lambda: clock[0])
    run, waiting, free_at = Run(), [], 0.0

    def work_until(moment: float) -> None:
        nonlocal free_at
        while waiting and max(free_at, waiting[0][1]) < moment:
            ticket, came = waiting[0]
            seconds = CAREFUL_SECONDS / RATIO if ticket.fast else CAREFUL_SECONDS
            end = max(free_at, came) + seconds
            if end > moment:
                return
            waiting.pop(0)
            clock[0] = free_at = end
            controller.computed(seconds)
            controller.leave(ticket, answered=True)
            run.came.append(came)
            run.took.append(end - came)
            run.fast.append(ticket.fast)

    for now in arrivals:
        work_until(now)
        clock[0] = now
        waiting.append((controller.enter(TOKENS, now, follows=controlled), now))
    work_until(float("inf"))
    clock[0] = max(clock[0], start + idle)
    run.at_the_end, run.changes = controller.fast, controller.changes
    return run


def test_a_load_that_the_careful_setting_carries_has_it() -> None:
    run = simulate([(120, 25)])
    assert not any(run.fast) and run.changes == 0


@pytest.mark.parametrize("rate", [60, 100, 150])
def test_a_load_that_only_the_fast_setting_carries_stays_near_the_target(rate: float) -> None:
    run, careful = simulate([(120, rate)]), simulate([(120, rate)], controlled=False)
    assert careful.p99() > 10 * TARGET
    assert run.p99() < 1.5 * TARGET
    assert run.share_of_fast(20, 120) > 0.8  # no change to and fro
    assert run.changes <= 5


def test_it_returns_when_the_load_is_gone_and_stays() -> None:
    run = simulate([(30, 10), (30, 150), (60, 10)])
    assert run.share_of_fast(0, 30) == 0
    assert run.share_of_fast(35, 60) == 1
    assert run.share_of_fast(60 + 3 * HOLD_SECONDS, 120) == 0
    assert (run.changes, run.at_the_end) == (2, False)


def test_it_returns_though_nobody_comes_any_more() -> None:
    assert simulate([(30, 150)]).at_the_end
    assert not simulate([(30, 150)], idle=4 * HOLD_SECONDS).at_the_end


def test_a_request_that_hangs_counts_by_its_age() -> None:
    clock = [0.0]
    controller = LoadController(TARGET, RATIO, lambda: clock[0])
    hanging = controller.enter(TOKENS, 0.0, follows=True)
    assert not hanging.fast
    clock[0] = TARGET + 0.1
    assert controller.predicted_p99 == pytest.approx(TARGET + 0.1)
    assert controller.enter(TOKENS, clock[0], follows=True).fast
    assert not controller.enter(TOKENS, clock[0], follows=False).fast


def test_what_left_without_an_answer_is_no_work_any_more() -> None:
    clock = [0.0]
    controller = LoadController(TARGET, RATIO, lambda: clock[0])
    for _ in range(10):  # a second for each
        ticket = controller.enter(TOKENS, clock[0], follows=True)
        clock[0] += 0.1
        controller.computed(0.1)
        controller.leave(ticket, answered=True)
    alone = controller.predicted_p99
    waiting = [controller.enter(TOKENS, clock[0], follows=True) for _ in range(3)]
    assert controller.predicted_p99 == pytest.approx(alone + 0.3)
    for ticket in waiting:
        controller.leave(ticket, answered=False)
    assert controller.predicted_p99 == pytest.approx(alone)


@pytest.mark.parametrize(("target", "ratio"), [(0.0, 2.0), (-1.0, 2.0), (float("nan"), 2.0), (1.0, 1.0), (1.0, 0.5)])
def test_what_makes_no_sense(target: float, ratio: float) -> None:
    with pytest.raises(ValueError, match="target of the p99|must be faster"):
        LoadController(target, ratio)

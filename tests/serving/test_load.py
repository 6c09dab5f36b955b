"""Speed follows load: a queue simulated against a clock of its own, with and without the controller."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest

from fastbert_serving.load import CALM, HOLD_SECONDS, LoadController, Look

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
    look = controller.look()
    run.at_the_end, run.changes = look.fast, look.changes
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


# Something that happens to a controller: when, what, and the name of the request.
Event = tuple[float, str, str]
ONE_SLOW_ANSWER: list[Event] = [(0.0, "enter", "slow"), (1.0, "answer", "slow")]


@dataclass
class Play:
    """What a controller said in the course of some events: at what times, and which requests got the fast setting."""

    looks: list[tuple[float, Look]] = field(default_factory=list)
    fast: dict[str, bool] = field(default_factory=dict)
    idle: list[tuple[float, float]] = field(default_factory=list)  # from when until when nobody was in flight

    def changes(self) -> list[tuple[float, bool]]:
        """Return when the setting had changed, and to what."""
        pairs = itertools.pairwise(self.looks)
        return [(now, after.fast) for (_, before), (now, after) in pairs if before.fast != after.fast]


def play(events: list[Event], end: float, every: float | None) -> Play:
    """Let events happen to a controller, and look at it behind each of them, at the end, and every so many seconds."""
    clock = [0.0]
    controller = LoadController(TARGET, RATIO, lambda: clock[0])
    moments = [] if every is None else [(number * every, "look", "") for number in range(1, int(end / every))]
    seen, tickets, idle_since = Play(), {}, 0.0
    for clock[0], what, name in sorted([*events, *moments, (end, "look", "")]):
        if what == "enter":
            if not tickets:
                seen.idle.append((idle_since, clock[0]))
            tickets[name] = controller.enter(TOKENS, clock[0], follows=True)
            seen.fast[name] = tickets[name].fast
        elif what == "compute":
            controller.computed(CAREFUL_SECONDS)
        elif what != "look":
            controller.leave(tickets.pop(name), answered=what == "answer")
            idle_since = clock[0]
        if every is not None or clock[0] == end:
            seen.looks.append((clock[0], controller.look()))
    if not tickets:
        seen.idle.append((idle_since, end))
    return seen


def check_what_is_said(seen: Play, every: float) -> None:
    """While the prediction is above the target new texts get the fast setting, and it goes back only after so many
    seconds in which the careful one would have done, or in which nobody was there."""
    for _, look in seen.looks:
        assert look.fast or look.predicted_p99 <= TARGET
    for now, fast in seen.changes():
        if not fast:
            begin = now - HOLD_SECONDS
            calm = all(
                RATIO * look.predicted_p99 < CALM * TARGET
                for moment, look in seen.looks
                if begin < moment < now - every
            )
            assert calm or any(since <= begin + every and now <= until for since, until in seen.idle)
    assert seen.looks[-1][1].changes == len(seen.changes())


@pytest.mark.parametrize("every", [None, 1.0, 0.05])
def test_behind_one_slow_answer_there_is_one_change_and_one_back(every: float | None) -> None:
    """Whoever comes behind seconds in which nobody was there meets no queue, however slow the last answer was."""
    events = [
        *ONE_SLOW_ANSWER,
        (1.0 + 5.3, "enter", "first"),
        (1.0 + 5.4, "enter", "second"),
        (1.0 + 5.41, "answer", "first"),
        (1.0 + 5.42, "answer", "second"),
    ]
    seen = play(events, end=14.0, every=every)
    assert seen.fast == {"slow": False, "first": False, "second": False}
    assert (seen.looks[-1][1].fast, seen.looks[-1][1].changes) == (False, 2)
    if every is not None:
        check_what_is_said(seen, every)


def test_who_comes_sooner_than_that_is_still_told_of_the_slow_answer() -> None:
    events = [*ONE_SLOW_ANSWER, (1.0 + 4.9, "enter", "next"), (1.0 + 4.92, "answer", "next")]
    assert play(events, end=6.0, every=None).fast == {"slow": False, "next": True}


@pytest.mark.parametrize("every", [None, 1.0])
def test_who_was_in_flight_for_long_and_left_without_an_answer_was_no_calm(every: float | None) -> None:
    """Requests a second apart are calm from 11 s on, but from 12 to 18 s one hangs."""
    quick = [
        (second + late, what, str(second))
        for second in range(2, 12)
        for late, what in ((0.0, "enter"), (0.02, "answer"))
    ]
    events = [*ONE_SLOW_ANSWER, *quick, (12.0, "enter", "hangs"), (18.0, "cancel", "hangs"), (18.1, "enter", "next")]
    assert play(events, end=18.2, every=every).fast["next"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_setting_is_as_said_and_looks_do_not_change_it(seed: int) -> None:
    draw, events = random.Random(seed), []
    now, pause = 0.0, draw.choice((0.1, 1.0, 3.0))
    for number in range(40):
        now += draw.expovariate(1 / pause)
        took = draw.choice((0.01, 0.05, 0.3, 1.0, 7.0))
        events += [(now, "enter", str(number)), (now + took / 2, "compute", "")]
        events.append((now + took, draw.choice(("answer", "answer", "answer", "cancel")), str(number)))
    end = now + 20.0
    unseen, looked = (play(events, end, every) for every in (None, 0.05))
    check_what_is_said(looked, 0.05)
    assert looked.fast == unseen.fast and len(set(looked.fast.values())) == 2
    assert looked.looks[-1] == unseen.looks[-1]


def test_a_request_that_hangs_counts_by_its_age() -> None:
    clock = [0.0]
    controller = LoadController(TARGET, RATIO, lambda: clock[0])
    hanging = controller.enter(TOKENS, 0.0, follows=True)
    assert not hanging.fast
    clock[0] = TARGET + 0.1
    assert controller.look().predicted_p99 == pytest.approx(TARGET + 0.1)
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
    alone = controller.look().predicted_p99
    waiting = [controller.enter(TOKENS, clock[0], follows=True) for _ in range(3)]
    assert controller.look().predicted_p99 == pytest.approx(alone + 0.3)
    for ticket in waiting:
        controller.leave(ticket, answered=False)
    assert controller.look().predicted_p99 == pytest.approx(alone)


@pytest.mark.parametrize(("target", "ratio"), [(0.0, 2.0), (-1.0, 2.0), (float("nan"), 2.0), (1.0, 1.0), (1.0, 0.5)])
def test_what_makes_no_sense(target: float, ratio: float) -> None:
    with pytest.raises(ValueError, match="target of the p99|must be faster"):
        LoadController(target, ratio)

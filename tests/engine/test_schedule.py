"""The rule of the schedule, alone and in simulations on a clock of their own."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from dataclasses import dataclass, field

import pytest

from fastbert_kernels.engine.layer_cost import STEP_SECONDS, LayerCost
from fastbert_kernels.engine.schedule import Schedule

COST = LayerCost((8, 16, 32), (1.0, 1.0, 2.0))  # full from 16 tokens on; twice that takes 2 seconds
# As full, of layers so thin that a step runs three of them, or all that are left where it is not full.
THIN = LayerCost((8, 16, 32), tuple(STEP_SECONDS + seconds for seconds in (7e-3, 7e-3, 16e-3)))
DEPTH = 4


@dataclass(frozen=True)
class Bundle:
    layer: int
    tokens: int
    due: float = math.inf
    age: int = 0
    rule: str = "entropy"
    samples: tuple = field(default=(), compare=False)


def schedule_of(*bundles, patience=1000.0):
    schedule = Schedule(DEPTH, COST, patience)
    for bundle in bundles:
        schedule.add(bundle, 0.0)
    return schedule


def steps_of(schedule, now=0.0):
    """All steps to come, if nothing is added."""
    steps = []
    while schedule:
        steps.append(schedule.next(now))
    return steps


def test_nobody_waits():
    schedule = schedule_of(patience=None)
    assert not schedule and schedule.next(0.0) == [] and schedule.full == 16
    assert schedule.patience == DEPTH * 2.0
    with pytest.raises(ValueError, match="patience must be at least 0 seconds, got -1"):
        schedule_of(patience=-1)


def test_the_deepest_full_group_goes_then_the_deepest():
    schedule = schedule_of(*(Bundle(*numbers) for numbers in ((0, 40), (1, 16), (2, 16), (3, 15))))
    assert [bundles[0].layer for bundles in steps_of(schedule)] == [2, 1, 0, 3]
    schedule = schedule_of(*(Bundle(*numbers) for numbers in ((3, 15), (1, 4), (2, 4))))
    assert [bundles[0].layer for bundles in steps_of(schedule)] == [3, 2, 1]


def test_groups_of_two_rules_go_apart_the_oldest_first():
    for tokens in (10, 20):
        young, old = Bundle(1, tokens, age=2), Bundle(1, tokens, age=1, rule="other")
        assert steps_of(schedule_of(young, old)) == [[old], [young]]


def test_a_deadline_that_cannot_wait_goes_first():
    """Behind layer 1 of 4 there are 3 layers to come, and one step may be in the way: 4 steps of 2 seconds."""
    full, later, sooner = Bundle(0, 16), Bundle(1, 3, due=30.0), Bundle(3, 3, due=25.5)
    assert schedule_of(full, later, sooner).next(21.0) == [full]
    assert steps_of(schedule_of(full, later, sooner), 22.0) == [[sooner], [later], [full]]


def test_who_was_passed_over_for_long_goes_before_deadlines():
    schedule = schedule_of(Bundle(3, 3, age=7), Bundle(3, 15, due=500.0, age=8), Bundle(0, 16, due=1.0), patience=100.0)
    schedule.add(Bundle(2, 3, age=1), 10.0)
    assert schedule.next(99.0) == [Bundle(0, 16, due=1.0)]
    schedule.add(Bundle(0, 16, due=1.0), 99.0)
    # The one that came first, not the one that is due first, begins the step; and the group is not overdue again.
    assert schedule.next(100.0) == [Bundle(3, 3, age=7), Bundle(3, 15, due=500.0, age=8)]
    assert steps_of(schedule, 110.0) == [[Bundle(2, 3, age=1)], [Bundle(0, 16, due=1.0)]]


def test_the_group_that_has_been_overdue_for_longest_goes():
    schedule = schedule_of(Bundle(3, 3), patience=10.0)
    schedule.add(Bundle(2, 3), 5.0)
    assert steps_of(schedule, 50.0) == [[Bundle(3, 3)], [Bundle(2, 3)]]


def test_patience_takes_one_step_at_a_time():
    schedule = schedule_of(*(Bundle(3, 16, age=number) for number in range(3)), patience=10.0)
    schedule.add(Bundle(1, 3, due=12.0), 9.0)
    assert schedule.next(10.0) == [Bundle(3, 16, age=0)]
    assert schedule.next(12.0) == [Bundle(1, 3, due=12.0)]  # the other group had its step
    schedule.add(Bundle(1, 3, due=12.0), 12.0)
    assert schedule.next(20.0) == [Bundle(3, 16, age=1)]


def test_a_step_takes_those_who_are_due_first_then_the_oldest_until_it_is_full():
    numbers = ((50.0, 1), (20.0, 2), (math.inf, 4), (math.inf, 3), (30.0, 5))
    schedule = schedule_of(*(Bundle(0, 6, due, age) for due, age in numbers))
    assert [[bundle.age for bundle in bundles] for bundles in steps_of(schedule)] == [[2, 5, 1], [3, 4]]


def test_a_bundle_with_which_a_step_had_too_many_tokens_stays():
    schedule = schedule_of(*(Bundle(1, tokens, age=age) for age, tokens in enumerate((10, 25, 4, 100))))
    # The last is a single long text.
    assert [[bundle.tokens for bundle in bundles] for bundles in steps_of(schedule)] == [[10, 4], [25], [100]]


@dataclass(frozen=True)
class Sample:
    number: int
    arrival: float
    tokens: int
    exit_layer: int
    hurry: float = math.inf  # its deadline is so many seconds after it is let in


class Run:
    """A simulation: samples come, are let in where there is room, and leave at the end of the step through their exit
    layer.

    Attributes:
        came: when they were let in, by number.
        left: when they left, by number.
        longest_step: seconds.
        patience: seconds.
        steps: how many ran so many layers.
        left_on_the_way: samples whose step went on behind their exit layer.
    """

    def __init__(self, samples, max_samples=10**9, patience=None, cost=COST):
        self.cost, self.schedule = cost, Schedule(DEPTH, cost, patience)
        self.patience = self.schedule.patience
        self.came, self.left, self.longest_step, self.now = {}, {}, 0.0, 0.0
        self.ages, self.steps, self.left_on_the_way = {}, Counter(), 0
        coming = sorted(samples, key=lambda sample: sample.arrival, reverse=True)
        while coming or self.schedule:
            if not self.schedule:
                self.now = max(self.now, coming[-1].arrival)
            while coming and coming[-1].arrival <= self.now and len(self.came) - len(self.left) < max_samples:
                sample = coming.pop()
                self.ages[sample.number] = len(self.came)
                self.came[sample.number] = self.now
                self.wait(0, [sample])
            self.step()

    def step(self):
        bundles = self.schedule.next(self.now)
        assert bundles and len({bundle.layer for bundle in bundles}) == 1
        tokens = sum(bundle.tokens for bundle in bundles)
        assert tokens <= 2 * self.cost.full
        layer, moved = bundles[0].layer, [sample for bundle in bundles for sample in bundle.samples]
        until = min(layer + self.cost.layers_of_a_step(tokens, DEPTH - layer), DEPTH)
        seconds = STEP_SECONDS
        for behind in range(layer, until):
            stay = sum(sample.tokens for sample in moved if sample.exit_layer > behind)
            seconds += self.cost(stay) - STEP_SECONDS if stay else 0.0
        self.steps[until - layer] += 1
        self.longest_step = max(self.longest_step, seconds)
        self.now += seconds
        self.left.update({sample.number: self.now for sample in moved if sample.exit_layer <= until})
        self.left_on_the_way += sum(sample.exit_layer < until for sample in moved)
        self.wait(until, [sample for sample in moved if sample.exit_layer > until])

    def wait(self, layer, samples):
        if samples:
            due = min(self.came[sample.number] + sample.hurry for sample in samples)
            age = min(self.ages[sample.number] for sample in samples)
            tokens = sum(sample.tokens for sample in samples)
            self.schedule.add(Bundle(layer, tokens, due, age, samples=tuple(samples)), self.now)


def arrivals(seed, count, every, hurry=lambda draw: math.inf):
    """`count` samples, one in `every` seconds on average; `hurry`: a random generator -> seconds."""
    draw, now, samples = random.Random(seed), 0.0, []
    for number in range(count):
        now += draw.expovariate(1 / every)
        exit_layer = draw.choices(range(1, DEPTH + 1), (50, 25, 15, 10))[0]
        samples.append(Sample(number, now, draw.randint(1, 12), exit_layer, hurry(draw)))
    return samples


@pytest.mark.parametrize("cost", [COST, THIN], ids=["thick layers", "thin layers"])
@pytest.mark.parametrize("seed", range(20))
def test_everybody_leaves_within_the_bound(seed, cost):
    """Of at most S samples inside, each leaves S L (patience + (G + 1) C) seconds after it came at the latest; here all
    have one rule, so G is L."""
    draw, unit = random.Random(seed), cost(cost.full)  # of time
    most, every, patience = draw.randint(1, 6), draw.choice((0.05, 0.3, 1.0, 4.0)), draw.choice((0.0, 3.0, 20.0))
    samples = arrivals(seed, 300, every * unit, lambda draw: unit * draw.choice((0.0, 1.0, 5.0, 40.0, math.inf)))
    run = Run(samples, most, patience * unit, cost)
    assert run.left.keys() == run.came.keys() == {sample.number for sample in samples}
    bound = most * DEPTH * (patience * unit + (DEPTH + 1) * run.longest_step)
    assert all(run.left[number] <= came + bound for number, came in run.came.items())
    assert cost is THIN or (run.steps.keys() == {1} and not run.left_on_the_way)


def test_thin_layers_are_run_several_at_a_time_and_all_where_a_step_is_not_full():
    """Under a load at which steps are full, and some texts gather where a step ended before the last layer."""
    run = Run(arrivals(0, 1000, 0.5 * THIN(THIN.full)), cost=THIN)
    assert run.steps.keys() == {1, 2, 3, 4} and run.left_on_the_way > 100


@pytest.mark.parametrize("hurry", [math.inf, 0.0, 5.0], ids=["full steps", "too late", "deadlines"])
def test_a_lonely_sample_does_not_wait_for_ever(hurry):
    """Without end others come who fill the steps in front of layer 1, or have deadlines; it has none and goes deep."""
    crowd = [Sample(number, number * 0.4, 8, 1, hurry) for number in range(1, 1000)]
    run = Run([Sample(0, 0.0, 8, DEPTH), *crowd], patience=10.0)
    assert 30.0 < run.left[0] <= DEPTH * (10.0 + 2 * run.longest_step)


@pytest.mark.parametrize("cost", [COST, THIN], ids=["thick layers", "thin layers"])
def test_deadlines_that_can_be_met_are_met(cost):
    """A text alone takes 4 layers; those in a hurry have 16 layers' time, and everybody else makes way."""
    unit = cost(cost.full)
    samples = arrivals(3, 2000, unit, lambda draw: 16.0 * unit if draw.random() < 0.1 else math.inf)
    run = Run(samples, patience=100.0 * unit, cost=cost)
    hurried = [sample for sample in samples if sample.hurry < math.inf]
    assert len(hurried) > 100 and all(run.left[each.number] <= each.arrival + 16.0 * unit for each in hurried)
    assert any(run.left[each.number] > each.arrival + 16.0 * unit for each in samples)


def without_refill(samples, cost=COST):
    """Return when they leave if batches of a full step's tokens, first come first served, run to the end one by one."""
    coming, now, left = samples[::-1], 0.0, {}
    while coming:
        now, batch = max(now, coming[-1].arrival), []
        while coming and coming[-1].arrival <= now and sum(sample.tokens for sample in batch) < cost.full:
            batch.append(coming.pop())
        for layer in range(1, DEPTH + 1):
            if batch:
                now += cost(sum(sample.tokens for sample in batch))
                left.update({sample.number: now for sample in batch if sample.exit_layer == layer})
                batch = [sample for sample in batch if sample.exit_layer > layer]
    return left


def waits(samples, left):
    """Median and 99th percentile of the seconds from arrival to answer."""
    return statistics.quantiles([left[sample.number] - sample.arrival for sample in samples], n=100)[49:99:49]


def test_batches_that_are_refilled_carry_a_load_that_shrinking_ones_do_not():
    """Where few tokens cost as much as 16, the deep layers of a batch that shrinks are paid for and hardly used.

    Near the pool's own limit everybody waits for longer than the patience, and that must not empty its steps.
    """
    for every, slower in ((1.5, 1.15), (1.0, 2.0), (0.8, 10.0)):
        samples = arrivals(1, 3000, every)
        (median, late), (other_median, other_late) = (
            waits(samples, Run(samples).left),
            waits(samples, without_refill(samples)),
        )
        assert other_median > slower * median
        assert every == 1.5 or other_late > slower * late


@pytest.mark.parametrize("every", [6.0, 4.0, 3.2])
def test_where_tokens_cost_what_they_are_nobody_is_passed_over_for_full_batches(every):
    """A batch of few tokens wastes little there, and letting others catch up would make the deep ones late."""
    cost = LayerCost((1, 64), (0.4, 13.0))
    samples = arrivals(2, 3000, every)
    (median, late), (other_median, other_late) = (
        waits(samples, Run(samples, cost=cost).left),
        waits(samples, without_refill(samples, cost)),
    )
    assert median < 1.05 * other_median and late < 1.25 * other_late

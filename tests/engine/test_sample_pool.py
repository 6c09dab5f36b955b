"""The pool: whoever comes when, the answers are the bits of a run alone."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter

import pytest
import torch

from fastbert_kernels.engine.layer_cost import STEP_SECONDS, WHOLE_SECONDS, WORTHWHILE_SECONDS, LayerCost
from fastbert_kernels.engine.pool import DeadlineError, Pool
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH
from fastbert_kernels.engine.spans import PackedState
from helpers.encoders import WIDTH
from helpers.pool_cases import (
    COST,
    COSTS,
    DEPTH,
    ROOMY,
    RULES,
    SPEEDS,
    THIN,
    THINNER,
    answers_of,
    arrival_of,
    assert_answer,
    encoder,
    pool_of,
    texts,
)

# More random arrivals take minutes: FASTBERT_POOL_ARRIVALS=100000 pytest -m proof tests/engine/test_sample_pool.py
ARRIVALS = int(os.environ.get("FASTBERT_POOL_ARRIVALS", "10000"))


def random_arrivals(seed, count, precision="float32"):
    """Let `count` arrivals of 1 to 3 texts into a pool, steps in between, some cancelled, some too late; the layers are
    thick or thin by the seed.

    Returns:
        How many left at each layer, were cancelled and came too late; and how many steps through so many layers had
        texts that left them behind another layer than the last.
    """
    draw, now, cost = random.Random(seed), 0.0, COSTS[seed % len(COSTS)]
    out, left_on_the_way = [], Counter()

    def observer(step):
        assert step.tokens <= 2 * cost.full and len(out) <= step.left
        assert all(step.layer < layer <= step.until for layer in out)
        left_on_the_way[step.until - step.layer] += any(layer < step.until for layer in out)
        out.clear()

    def leaves(future):
        if not future.cancelled() and future.exception() is None:
            out.append(future.result().exit_layer)

    patience = draw.choice((0.0, 10.0, 1000.0))
    pool = pool_of(precision, cost, clock=lambda: now, patience=patience, observer=observer)
    steps, waiting, seen = (
        draw.choice((0.3, 0.8, 2.0)),
        [],
        dict.fromkeys([*range(1, DEPTH + 1), "cancelled", "late"], 0),
    )
    for _ in range(count):
        rule = draw.choice(RULES)
        numbers = draw.choices(range(60), k=draw.randint(1, 3))
        speeds = draw.choices(SPEEDS, k=len(numbers))
        deadlines = [now + draw.uniform(0, 40) if draw.random() < 0.2 else None for _ in numbers]
        futures = pool.submit(arrival_of(numbers, speeds, rule), deadlines=deadlines)
        for future in futures:
            future.add_done_callback(leaves)
        waiting += zip(futures, itertools.repeat(rule), numbers, speeds)
        while draw.random() < steps / (1 + steps):
            now += draw.uniform(0, 3)
            pool.step()
        if draw.random() < 0.1:
            draw.choice(waiting)[0].cancel()
    while pool.step():
        pass
    assert pool.in_flight == (0, 0)
    for future, rule, number, speed in waiting:
        if future.cancelled():
            seen["cancelled"] += 1
        elif isinstance(future.exception(timeout=0), DeadlineError):
            seen["late"] += 1
        else:
            seen[assert_answer(future, rule, number, speed, precision)] += 1
    return seen, left_on_the_way


def assert_steps(left_on_the_way, seed):
    """Through thick layers steps go one by one, unless nobody may leave; through thin ones several and all at once."""
    wanted = {COST: set(), THINNER: {2, 3}, THIN: {2, 3, 4, DEPTH}}[COSTS[seed % len(COSTS)]]
    assert {layers for layers, steps in left_on_the_way.items() if steps} >= wanted
    assert wanted or not left_on_the_way.total()


@pytest.mark.parametrize("seed", range(5))
def test_answers_do_not_depend_on_arrivals(seed):
    seen, left_on_the_way = random_arrivals(seed, 1000)
    assert min(seen.values()) > 0 or (seen[3] == 0 and min(n for key, n in seen.items() if key != 3) > 0)
    assert_steps(left_on_the_way, seed)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_answers_in_other_precisions_do_not_depend_on_arrivals(precision):
    seen, _ = random_arrivals(5, 200, precision)
    assert sum(seen[layer] > 0 for layer in range(1, DEPTH + 1)) >= DEPTH - 1


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(100, 100 + ARRIVALS // 5000))
def test_answers_do_not_depend_on_many_more_arrivals(seed):
    assert_steps(random_arrivals(seed, 5000)[1], seed)


def test_an_answer_is_out_when_its_sample_leaves_and_late_arrivals_that_fill_a_step_catch_up():
    """Two of three survive the first layer, meet the next arrivals behind it, and share the layers to come."""
    steps = []
    pool = pool_of(clock=lambda: 0.0, observer=steps.append)
    early = next(case for case, want in answers_of(ENTROPY_RULE).items() if int(want.exit_layer) == 1)
    deep = [case for case, want in answers_of(ENTROPY_RULE).items() if int(want.exit_layer) == DEPTH]
    late = [next(case for case in deep if len(texts()[case[0]]) >= COST.full / 2)] * 2
    first = pool.submit(arrival_of(*zip(early, *deep[:2], strict=True)))
    assert pool.step()
    assert [future.done() for future in first] == [True, False, False]
    second = pool.submit(arrival_of(*zip(*late, strict=True)))
    while pool.step():
        pass
    assert [(step.layer, step.until, step.samples, step.left) for step in steps] == [
        (0, 1, 3, 1),
        (0, 1, 2, 0),
        (1, 2, 4, 0),
        (2, 3, 4, 0),
        (3, 4, 4, 0),
        (4, 5, 4, 4),
    ]
    assert all(future.done() for future in (*first, *second))


@pytest.mark.parametrize(("more", "stops"), [(0, [(0, 3), (3, 5)]), (1, [(0, 5)])])
def test_layers_that_take_no_time_are_run_in_one_step(more, stops):
    """Full steps run some of them, others all; an answer may then be out some milliseconds after its sample left, with
    the layer at which it did."""
    assert (WORTHWHILE_SECONDS, WHOLE_SECONDS) == (0.016, 0.04)
    cases = [case for case in answers_of(ENTROPY_RULE) if case[0] == 5]
    arrival = arrival_of(*zip(*cases, strict=True))
    cost = LayerCost((1, arrival.tokens + more), (STEP_SECONDS + 6e-3,) * 2)
    steps = []
    pool = Pool(encoder(), cost, torch.cat, **ROOMY, observer=steps.append)
    futures = pool.submit(arrival)
    while pool.step():
        pass
    assert [(step.layer, step.until) for step in steps] == stops
    for future, (number, speed) in zip(futures, cases, strict=True):
        assert_answer(future, ENTROPY_RULE, number, speed)


def test_layers_without_a_question_are_run_in_one_step():
    steps = []
    pool = pool_of(observer=steps.append)
    pool.submit(arrival_of([3], [0.0], RULES[2]))
    while pool.step():
        pass
    assert [(step.layer, step.until) for step in steps] == [(0, 2), (2, 4), (4, 5)]


def test_an_arrival_that_is_larger_than_a_step_is_cut():
    steps = []
    pool = pool_of(observer=steps.append)
    futures = pool.submit(arrival_of(range(60), [0.4] * 60))
    while pool.step():
        pass
    assert max(step.tokens for step in steps) <= 2 * COST.full < sum(map(len, texts()))
    for number, future in enumerate(futures):
        assert_answer(future, ENTROPY_RULE, number, 0.4)


def test_a_step_has_more_tokens_than_two_full_ones_for_a_single_sample_only():
    """Texts of 15 and 37 tokens where a step is full from 16 on."""
    steps = []
    pool = Pool(encoder(), LayerCost((16,), (1.0,)), torch.cat, **ROOMY, observer=steps.append)
    numbers = [14, 36, 14, 36, 36, 0, 1]
    futures = pool.submit(arrival_of(numbers, [0.0] * 7))
    while pool.step():
        pass
    assert all(step.tokens <= 2 * 16 or step.samples == 1 for step in steps)
    for number, future in zip(numbers, futures, strict=True):
        assert_answer(future, ENTROPY_RULE, number, 0.0)


def test_who_is_due_goes_before_the_rest_of_a_large_arrival():
    """The rest waits in front of the first layer, embedded; the text with a deadline goes at once, and in time."""
    now = 0.0

    def observer(step):
        nonlocal now
        now += 1.0

    pool = pool_of(clock=lambda: now, observer=observer)
    large = pool.submit(arrival_of(range(60), [0.0] * 60))
    pool.step()
    (due,) = pool.submit(arrival_of([5], [0.0]), deadlines=[now + 12.0])
    while pool.step() and not due.done():
        pass
    assert_answer(due, ENTROPY_RULE, 5, 0.0)
    assert not all(future.done() for future in large)


def test_memory_is_that_of_who_is_in_flight():
    """Whoever waits alone, after many have left, holds no memory for them."""
    pool = pool_of(clock=lambda: 0.0)
    for _ in range(20):
        pool.submit(arrival_of(range(60), [0.4] * 60))
        for _ in range(3):
            pool.step()
    bundles = [bundle for group in pool._schedule._groups.values() for bundle, _ in group._waiting.values()]
    begun = [bundle for bundle in bundles if isinstance(bundle.samples, PackedState)]
    assert len(begun) > 5
    for bundle in begun:
        assert bundle.samples.batch.hidden.untyped_storage().nbytes() <= 2 * bundle.tokens * WIDTH * 4
    assert pool.in_flight[1] == sum(bundle.tokens for bundle in bundles)


def test_who_is_cancelled_runs_no_further_layer():
    steps = []
    pool = pool_of(observer=steps.append)
    futures = pool.submit(arrival_of([10, 11, 12], [0.0] * 3))
    pool.step()
    assert futures[1].cancel() and pool.in_flight[0] == 3
    pool.step()
    assert pool.in_flight == (2, len(texts()[10]) + len(texts()[12])) and steps[-1].samples == 2
    for future in (futures[0], futures[2]):
        future.cancel()
    count = len(steps)
    assert pool.step() and pool.in_flight == (0, 0) and len(steps) == count
    assert not pool.step()


def test_arrivals_of_one_rule_are_embedded_together():
    asked = []

    def embed(texts):
        asked.append([*map(len, texts)])
        return torch.cat(texts)

    pool = Pool(encoder(), COST, embed, **ROOMY)
    for number, rule in ((3, ENTROPY_RULE), (4, RULES[4]), (5, ENTROPY_RULE), (6, FULL_DEPTH)):
        pool.submit(arrival_of([number], [0.4 if rule.early_exits else 0.0], rule))
    assert asked == []
    while pool.step():
        pass
    assert asked == [[4, 6, 7], [5]]

"""Exit rules in recorded loops: what is recorded for which rule, and that rules are not mixed up."""

from __future__ import annotations

import math
import random

import pytest
import torch

from fastbert_kernels.criteria import WITH_HISTORY, Criterion
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH, Rule
from helpers.criteria import EVERY_CRITERION, options_of
from helpers.encoders import random_batch, random_loop
from helpers.graphs import ALWAYS_MOVE, CheckedLayer, assert_equal_runs, graphed, prepare, without_heads

DEPTH = 4
RECORDED = [criterion for criterion in Criterion if criterion not in WITH_HISTORY]
RULES = [
    FULL_DEPTH,
    ENTROPY_RULE,
    *(Rule(**options) for options in EVERY_CRITERION),
    Rule("patience", 2),
    Rule(layer_speeds=(0.9, 0.4, 0.8, None)),
    Rule(layer_speeds=(0.2, 0.9, math.inf, None)),
    Rule(layer_speeds=(None, 0.9, None, None)),
    Rule("confidence", layer_speeds=(0.5, None, 0.7, None)),
]


@pytest.mark.parametrize("options", [{}, {"late": 0}, {"whole_depth_samples": 8}], ids=str)
def test_many_rules_through_one_loop(poisoned_memory, options):
    random.seed(5)
    plain = without_heads(random_loop(depth=DEPTH, layer=CheckedLayer), 2)
    loop, recorder = graphed(plain, move=ALWAYS_MOVE, max_buckets=100, **options)
    layers = set()
    for _ in range(80):
        lengths = random.choice([[5], [9, 0, 60], [30] * 7, [1, 70, 20, 4, 4, 4, 4, 4, 4, 9]])
        speed = random.choice([0.0, 1.0, 2.0, torch.rand(len(lengths)), torch.rand(len(lengths)).round()])
        want = assert_equal_runs(loop, plain, random_batch(lengths, speed), random.choice(RULES))
        layers.update(want.exit_layer.tolist())
    assert layers == {1, 3, DEPTH} and recorder.replayed


@pytest.mark.parametrize("whole_depth_samples", [0, 8])
@pytest.mark.parametrize("criterion", RECORDED)
def test_another_speed_of_a_layer_is_no_new_recording(whole_depth_samples, criterion):
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, whole_depth_samples=whole_depth_samples)
    batch, exits = random_batch([5, 9, 3, 20, 1, 7, 30, 2], 1.0), []
    all_speeds = [(0.1, 0.4, 0.6, None), (0.4, 0.2, 0.5, None), (0.01, 0.01, 0.01, 0.5)]
    rules = [Rule(**options_of(criterion, 2), layer_speeds=speeds) for speeds in (*all_speeds, all_speeds[0])]
    prepare(loop, [(77, 8, 30)], rules[0])
    assert len(recorder.recorded) == DEPTH
    for rule in rules:
        exits.append(assert_equal_runs(loop, plain, batch, rule).exit_layer.tolist())
    assert exits[3] == exits[0] and exits[0] != exits[1] != exits[2] != exits[0]
    assert len(recorder.recorded) == DEPTH and recorder.replayed


def test_what_a_rule_has_recorded():
    """A stage for each head that is asked; nothing where all that is fixed of the rule is recorded already."""
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, late=0)
    batch, recorded = random_batch([5, 9], 1e-6), []
    for rule in (
        ENTROPY_RULE,
        FULL_DEPTH,  # the only stage from the first layer to the last
        Rule("confidence"),
        Rule("top_k_entropy", 2),
        Rule("top_k_entropy", 3),
        Rule(layer_speeds=(0.5, 0.5, 0.5, None)),
        Rule(layer_speeds=(None, 0.5, None, None)),
        Rule(layer_speeds=(None, 0.3, 0.0, 0.7)),
        Rule(layer_speeds=(None, None, None, None)),
        Rule("patience", 1),
    ):
        before = len(recorder.recorded)
        assert_equal_runs(loop, plain, batch, rule)
        recorded.append(len(recorder.recorded) - before)
    assert recorded == [DEPTH, 1, DEPTH, DEPTH, DEPTH, DEPTH, 2, 0, 1, 0]


@pytest.mark.parametrize("whole_depth_samples", [0, 8])
def test_criteria_with_a_history_run_plainly(whole_depth_samples):
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, whole_depth_samples=whole_depth_samples)
    for rule in (*(Rule("patience", patience) for patience in (1, 2, 3)), Rule("stability")):
        assert_equal_runs(loop, plain, random_batch([5, 9, 3], 0.5), rule)
    prepare(loop, [(10, 1, 10)], Rule("patience", 1))
    assert not recorder.recorded


def test_buckets_are_counted_for_each_rule():
    """A rule for which there is none left runs plainly, not in a bucket of another rule."""
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, max_buckets=2)
    batch = random_batch([5, 9], 0.6)
    for rule, replayed in (
        (ENTROPY_RULE, True),
        (Rule("confidence"), True),
        (Rule("top_k_entropy", 2), False),
        (Rule(layer_speeds=(0.5, 0.5, 0.5, 0.5)), False),
        (FULL_DEPTH, True),
        (Rule("confidence"), True),
    ):
        recorder.replayed.clear()
        assert_equal_runs(loop, plain, batch, rule)
        assert bool(recorder.replayed) is replayed


@pytest.mark.parametrize("whole_depth_samples", [0, 8])
def test_prepare_for_a_rule(whole_depth_samples):
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, whole_depth_samples=whole_depth_samples)
    prepare(loop, [(20, 1, 20), (100, 8, 64)], Rule("confidence", layer_speeds=(None, 1.0, 1.0, None)))
    assert [stage.inputs.hidden.shape[0] for stage in recorder.recorded] == [128] * 3 + [64] * 3
    batch = random_batch([30, 2, 60, 1], 0.5)
    assert_equal_runs(loop, plain, batch, Rule("confidence", layer_speeds=(None, 0.2, 0.4, 1.0)))
    assert len(recorder.recorded) == 6 and recorder.replayed
    assert_equal_runs(loop, plain, batch, ENTROPY_RULE)
    assert len(recorder.recorded) > 6


def test_rules_changed_between_inference_mode_and_outside():
    plain = random_loop(depth=DEPTH)
    with torch.inference_mode():
        loop, _ = graphed(plain, move=ALWAYS_MOVE)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            for speed in (0.2, 0.9):
                rule = Rule(layer_speeds=(speed, 1 - speed, None, None))
                assert_equal_runs(loop, plain, random_batch([100, 20], [0.9, 0.5]), rule)

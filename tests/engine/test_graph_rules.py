"""Exit rules in recorded loops: what is recorded for which rule, and that rules are not mixed up."""

from __future__ import annotations

import random

import pytest
import torch

from fastbert_kernels.engine.rule import ENTROPY_RULE, Rule
from loops import random_batch, random_loop
from recording import ALWAYS_MOVE, CheckedLayer, assert_equal_runs, graphed, without_heads

DEPTH = 4
RULES = [
    None,
    ENTROPY_RULE,
    Rule("confidence"),
    Rule("top_k_entropy", top_k=2),
    Rule(layer_speeds=(0.9, 0.4, 0.8, 0.0)),
    Rule(layer_speeds=(0.2, 0.9, 0.5, 0.0)),
    Rule(layer_speeds=(0.0, 0.9, 0.0, 0.0)),
    Rule("confidence", layer_speeds=(0.5, 0.0, 0.7, 0.0)),
    Rule("patience", patience=2),
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
@pytest.mark.parametrize("criterion", ["entropy", "top_k_entropy", "confidence"])
def test_another_speed_of_a_layer_is_no_new_recording(whole_depth_samples, criterion):
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, whole_depth_samples=whole_depth_samples)
    batch, exits = random_batch([5, 9, 3, 20, 1, 7, 30, 2], 1.0), []
    all_speeds = [(0.1, 0.4, 0.6, 0.0), (0.4, 0.2, 0.5, 0.0), (0.01, 0.01, 0.01, 0.5)]
    loop.prepare([(77, 8, 30)], Rule(criterion, layer_speeds=all_speeds[0]))
    assert len(recorder.recorded) == DEPTH
    for speeds in (*all_speeds, all_speeds[0]):
        exits.append(assert_equal_runs(loop, plain, batch, Rule(criterion, layer_speeds=speeds)).exit_layer.tolist())
    assert exits[3] == exits[0] and exits[0] != exits[1] != exits[2] != exits[0]
    assert len(recorder.recorded) == DEPTH and recorder.replayed


def test_what_a_rule_has_recorded():
    """A stage for each head that is asked; nothing where all that is fixed of the rule is recorded already."""
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, late=0)
    batch, recorded = random_batch([5, 9], 1e-6), []
    for rule in (
        ENTROPY_RULE,
        Rule(top_k=3, patience=4),  # parameters that entropy does not have
        None,  # the only stage from the first layer to the last
        Rule("confidence"),
        Rule("top_k_entropy", top_k=2),
        Rule("top_k_entropy", top_k=3),
        Rule(layer_speeds=(0.5, 0.5, 0.5, 0.0)),
        Rule(layer_speeds=(0.0, 0.5, 0.0, 0.0)),
        Rule(layer_speeds=(0.0, 0.3, 0.0, 0.7)),
        Rule(layer_speeds=(0.0, 0.0, 0.0, 0.0)),
        Rule("patience"),
    ):
        before = len(recorder.recorded)
        assert_equal_runs(loop, plain, batch, rule)
        recorded.append(len(recorder.recorded) - before)
    assert recorded == [DEPTH, 0, 1, DEPTH, DEPTH, DEPTH, DEPTH, 2, 0, 1, 0]


@pytest.mark.parametrize("whole_depth_samples", [0, 8])
def test_patience_runs_plainly(whole_depth_samples):
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, whole_depth_samples=whole_depth_samples)
    for patience in (1, 2, 3):
        assert_equal_runs(loop, plain, random_batch([5, 9, 3], 0.5), Rule("patience", patience=patience))
    loop.prepare([(10, 1, 10)], Rule("patience"))
    assert not recorder.recorded


def test_buckets_are_counted_for_each_rule():
    """A rule for which there is none left runs plainly, not in a bucket of another rule."""
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, max_buckets=2)
    batch = random_batch([5, 9], 0.6)
    for rule, replayed in (
        (ENTROPY_RULE, True),
        (Rule("confidence"), True),
        (Rule("top_k_entropy"), False),
        (Rule(layer_speeds=(0.5, 0.5, 0.5, 0.5)), False),
        (None, True),
        (Rule("confidence"), True),
    ):
        recorder.replayed.clear()
        assert_equal_runs(loop, plain, batch, rule)
        assert bool(recorder.replayed) is replayed


@pytest.mark.parametrize("whole_depth_samples", [0, 8])
def test_prepare_for_a_rule(whole_depth_samples):
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, whole_depth_samples=whole_depth_samples)
    loop.prepare([(20, 1, 20), (100, 8, 64)], Rule("confidence", layer_speeds=(0.0, 1.0, 1.0, 0.0)))
    assert [stage.inputs.hidden.shape[0] for stage in recorder.recorded] == [128] * 3 + [64] * 3
    batch = random_batch([30, 2, 60, 1], 0.5)
    assert_equal_runs(loop, plain, batch, Rule("confidence", layer_speeds=(0.0, 0.2, 0.4, 1.0)))
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
                rule = Rule(layer_speeds=(speed, 1 - speed, 0.0, 0.0))
                assert_equal_runs(loop, plain, random_batch([100, 20], [0.9, 0.5]), rule)

"""Recorded loops against the plain loop, with plain calls in place of CUDA graphs: all but the recording itself."""

from __future__ import annotations

import copy
import math
import random
import warnings

import pytest
import torch

from fastbert_kernels.engine.buckets import (
    COUNTED,
    MAX_SAMPLES,
    TOKENS,
    WHOLE_DEPTH_SAMPLES,
    WHOLE_DEPTH_TOKENS,
)
from fastbert_kernels.engine.graphs import GraphedLoop
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH, Rule
from helpers.encoders import random_batch, random_loop
from helpers.graphs import (
    ALWAYS_MOVE,
    CheckedLayer,
    HostileRecorder,
    assert_equal_runs,
    graphed,
    prepare,
    without_heads,
)

DEPTH = 4


def random_lengths(most=500):
    size = random.choice([1, 1, 2, 3, 7, 8, 9, random.randint(1, 40)])
    longest = random.choice([1, 9, 64, 65, 200])
    lengths = [random.choice([0, random.randint(0, longest), longest]) for _ in range(size)]
    while sum(lengths) > most:
        lengths.pop()
    return lengths if any(lengths) else [1, *lengths[1:]]


@pytest.mark.parametrize(
    ("options", "without"),
    [
        *[({"late": late}, without) for late, without in ((0, ()), (1, (1, 3)), (3, ()))],
        *[({"whole_depth_samples": 200}, without) for without in ((), (1, 3))],
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "lengths", [[1], [64], [65], [0, 5, 0], [3] * 8, [30] * 9, [200, 1, 0, 40, 64, 2], [9] * MAX_SAMPLES]
)
def test_equals_the_plain_loop(poisoned_memory, lengths, without, options):
    plain = without_heads(random_loop(depth=DEPTH, layer=CheckedLayer), *without)
    loop, recorder = graphed(plain, move=ALWAYS_MOVE, **options)
    for speed in (0.3, 0.3, None, 0.0, 1.0, 2.0, math.nan):  # with fresh memory, then with what was left in it
        rule = FULL_DEPTH if speed is None else ENTROPY_RULE
        assert_equal_runs(loop, plain, random_batch(lengths, speed or 0.0), rule)
    assert recorder.replayed


@pytest.mark.parametrize(
    ("late", "move", "whole_depth_samples", "batches"),
    [(1, ALWAYS_MOVE, 0, 60), (0, ALWAYS_MOVE, 8, 40), (0, ALWAYS_MOVE, 0, 30), (1, COUNTED, 8, 30)],
)
def test_random_batches_through_one_loop(late, move, whole_depth_samples, batches):
    random.seed(5)
    plain = random_loop(depth=DEPTH, layer=CheckedLayer)
    loop, recorder = graphed(plain, late=late, move=move, whole_depth_samples=whole_depth_samples, max_buckets=100)
    layers = set()
    for _ in range(batches):
        lengths = random_lengths()
        speed = random.choice([0.0, 0.5, 0.9, 2.0, torch.rand(len(lengths)), torch.rand(len(lengths)).round()])
        rule = random.choice([FULL_DEPTH, *[ENTROPY_RULE] * 9])
        want = assert_equal_runs(loop, plain, random_batch(lengths, speed), rule)
        layers.update(want.exit_layer.tolist())
    assert layers == set(range(1, DEPTH + 1))
    used = {(stage.inputs.hidden.shape[0], stage.inputs.speed.shape[0]) for stage in recorder.replayed}
    assert len(used) > 5


@pytest.mark.parametrize("lengths", [[300, 5, 200] * 4 + [0], [3] * (MAX_SAMPLES + 9)], ids=["tokens", "samples"])
@pytest.mark.parametrize("rule", [ENTROPY_RULE, Rule("confidence", layer_speeds=(None, 0.9, 0.4, None))], ids=str)
def test_a_large_batch_is_in_graphs_once_it_has_become_small(poisoned_memory, lengths, rule):
    plain = random_loop(depth=DEPTH, layer=CheckedLayer)
    loop, recorder = graphed(plain)
    batch = random_batch(lengths, torch.rand(len(lengths)) + 0.1)
    want = assert_equal_runs(loop, plain, batch, rule)
    assert recorder.replayed and DEPTH in want.exit_layer and want.exit_layer.min() < DEPTH
    # And where it becomes small within a span.
    state = loop.start(copy.copy(batch), rule, 7 * batch.sample_index.long())
    left = [loop.advance(state, until) for until in (3, DEPTH)]
    assert all(len(some.indices) for some in left)
    rows = torch.cat([some.indices for some in left]) // 7
    assert torch.equal(torch.cat([some.exit_layer for some in left]), want.exit_layer[rows])
    torch.testing.assert_close(torch.cat([some.logits for some in left]), want.logits[rows], equal_nan=True)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_stages_that_run(late):
    """One for each layer and `late` more; none behind the last layer; all layers at once where nobody can leave."""
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, late=late)

    def replays(batch, rule=ENTROPY_RULE):
        recorder.replayed.clear()
        deepest = int(assert_equal_runs(loop, plain, batch, rule).exit_layer.max())
        return deepest, len(recorder.replayed)

    assert replays(random_batch([5, 9], 2.0)) == (1, 1 + late)
    assert replays(random_batch([5, 9], 1e-6)) == (DEPTH, DEPTH)
    assert replays(random_batch([5, 9], 0.0)) == (DEPTH, min(2 + late, DEPTH))
    assert replays(random_batch([5, 9], [0.0, 2.0])) == (DEPTH, min(2 + late, DEPTH))
    assert replays(random_batch([5, 9], 2.0), FULL_DEPTH) == (DEPTH, 1)


def test_the_chain_ends_where_the_last_sample_leaves():
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, whole_depth_samples=8)
    for speed in (2.0, 0.6, [2.0, 0.6], 1e-6, 0.0):
        recorder.replayed.clear()
        deepest = int(assert_equal_runs(loop, plain, random_batch([5, 9], speed)).exit_layer.max())
        assert len(recorder.replayed) == deepest
    recorder.replayed.clear()
    assert_equal_runs(loop, plain, random_batch([5, 9], 2.0), FULL_DEPTH)
    assert len(recorder.replayed) == 1


def test_stages_end_at_exit_heads():
    plain = without_heads(random_loop(depth=DEPTH), 1, 3)
    for whole_depth_samples in (0, 8):
        loop, recorder = graphed(plain, late=0, whole_depth_samples=whole_depth_samples)
        assert_equal_runs(loop, plain, random_batch([5, 9], 1e-6))
        assert len(recorder.recorded) == len(recorder.replayed) == 2
        recorder.replayed.clear()
        assert assert_equal_runs(loop, plain, random_batch([5, 9], 2.0)).exit_layer.tolist() == [2, 2]
        assert len(recorder.replayed) == 1


def test_only_few_short_samples_are_chained():
    plain = random_loop(depth=DEPTH)

    class Counting(HostileRecorder):
        chained = 0

        def chain(self, stages):
            self.chained += 1
            return super().chain(stages)

    loop, recorder = graphed(plain, Counting(), whole_depth_samples=WHOLE_DEPTH_SAMPLES)
    for lengths, chained in (
        ([5], 1),
        ([5, 9], 1),
        ([1] * WHOLE_DEPTH_SAMPLES, 1),
        ([60, 5], 2),
        ([WHOLE_DEPTH_TOKENS], 3),
        ([1] * (WHOLE_DEPTH_SAMPLES + 1), 3),
        ([WHOLE_DEPTH_TOKENS + 1], 3),
    ):
        assert_equal_runs(loop, plain, random_batch(lengths, 0.5))
        assert recorder.chained == chained


def test_a_chain_that_is_not_available_is_told_once_and_stages_take_over():
    class Unchained(HostileRecorder):
        def chain(self, stages):
            raise RuntimeError("the driver has no conditional graph nodes")

    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, Unchained(), whole_depth_samples=8)
    batch = random_batch([5, 9], 0.6)
    with pytest.warns(RuntimeWarning, match="no CUDA graph of all layers.*no conditional graph nodes"):
        assert_equal_runs(loop, plain, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorder.replayed.clear()
        assert_equal_runs(loop, plain, batch)
        assert_equal_runs(loop, plain, random_batch([70, 9], 0.6))
        prepare(loop, [(100, 4, 30)])
    assert recorder.replayed


def test_every_stage_is_recorded_once_and_when_first_used():
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, late=0)
    sizes = []
    for lengths in ([60], [61, 2], [60, 60], [5, 70, 3, 1], [10], [128]):
        assert_equal_runs(loop, plain, random_batch(lengths, 1e-6))
        sizes.append(len(recorder.recorded))
    assert sizes == [DEPTH, DEPTH, 2 * DEPTH, 2 * DEPTH, 2 * DEPTH, 2 * DEPTH]


def test_no_call_records_what_it_was_not_asked_to():
    plain = random_loop(depth=DEPTH)
    for whole_depth_samples in (0, 8):
        loop, recorder = graphed(plain, on_demand=False, whole_depth_samples=whole_depth_samples)
        for lengths in ([5, 9], [300, 5, 200] * 4):
            assert_equal_runs(loop, plain, random_batch(lengths, 0.6))
        assert not recorder.recorded
        loop.record_on_demand()
        assert_equal_runs(loop, plain, random_batch([5, 9], 0.6))
        assert recorder.replayed


def test_prepare_records_the_largest_first():
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain)
    prepare(loop, [(20, 1, 20), (500, 8, 64), (100, 8, 64), (20, 1, 64), (TOKENS[-1] + 1, 1, 1)])
    rows = [stage.inputs.hidden.shape[0] for stage in recorder.recorded]
    assert rows == [512] * DEPTH + [128] * DEPTH + [64] * DEPTH
    assert_equal_runs(loop, plain, random_batch([30, 2, 60, 1], 0.5))
    assert len(recorder.recorded) == len(rows) and recorder.replayed


@pytest.mark.parametrize("whole_depth_samples", [0, 8])
def test_behind_a_warm_up_nothing_is_recorded(whole_depth_samples):
    plain = random_loop(depth=DEPTH, layer=CheckedLayer)
    loop, recorder = graphed(plain, on_demand=False, whole_depth_samples=whole_depth_samples, move=ALWAYS_MOVE)
    loop.warm_up([(100, 4, 64), (300, 4, 64)])
    recorded = len(recorder.recorded)
    assert recorded == 2 * (DEPTH + 1)
    cases = [([30, 2, 60, 1], 0.6, ENTROPY_RULE, True), ([30, 2], [0.0, 2.0], ENTROPY_RULE, True)]
    cases += [([30, 2], 0.9, FULL_DEPTH, True), ([200, 40], [2.0, 0.0], ENTROPY_RULE, True)]
    cases += [([60, 60, 40, 60, 50], 0.6, ENTROPY_RULE, True), ([30, 2], 0.6, Rule("confidence"), False)]
    cases += [([64] * 9, torch.linspace(0.1, 2, 9), ENTROPY_RULE, True), ([129] * 4, 0.0, ENTROPY_RULE, False)]
    for lengths, speed, rule, replayed in cases:
        recorder.replayed.clear()
        assert_equal_runs(loop, plain, random_batch(lengths, speed), rule)
        assert bool(recorder.replayed) is replayed
    state = loop.start(random_batch([30, 2], 0.0), ENTROPY_RULE)
    loop.advance(state, 2)
    assert len(recorder.recorded) == recorded


def test_inputs_of_a_stage_are_the_outputs_of_the_one_before():
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain)
    assert_equal_runs(loop, plain, random_batch([5, 9], 1e-6))
    for before, after in zip(recorder.recorded, recorder.recorded[1:], strict=False):
        assert after.inputs is before.outputs


def test_survivors_move_to_a_smaller_bucket_where_that_pays():
    plain = random_loop(depth=DEPTH)
    batch = random_batch([100, 20], [2.0, 1e-6])
    for move, rows in ((ALWAYS_MOVE, [128, 64, 64, 64]), (COUNTED, [128] * DEPTH)):
        loop, recorder = graphed(plain, late=0, move=move)
        assert_equal_runs(loop, plain, batch)
        assert [stage.inputs.hidden.shape[0] for stage in recorder.replayed] == rows


def test_a_move_by_a_late_count_takes_dummies_along():
    """22 samples leave behind the first layer. When the host knows, and moves the others from 256 rows to 64, 9 more
    have left behind the second, and in their place in the old bucket there are dummies with more rows than 64."""
    plain = random_loop(depth=DEPTH, layer=CheckedLayer)
    many = random_batch([5] * 200, 0.0)
    first, second = (
        LayerLoop(plain.layers[:depth], plain.heads[:depth], "reference").run(copy.copy(many), FULL_DEPTH).uncertainty
        for depth in (1, 2)
    )
    row = (first - second).argsort(descending=True)[:9]  # these are surer behind the second layer
    chosen = many.sample_index.argsort()[row]
    batch = random_batch([5] * 32, 2.0)
    batch.hidden.unflatten(0, (32, 5))[:9] = many.hidden.unflatten(0, (200, 5))[chosen]
    batch.speed = torch.cat(((first + second)[row] / 2, torch.zeros(1), torch.full((22,), 2.0)))
    loop, recorder = graphed(plain, late=1, move=ALWAYS_MOVE)
    want = assert_equal_runs(loop, plain, batch)
    assert want.exit_layer.bincount().tolist() == [0, 22, 9, 0, 1]
    assert [stage.inputs.hidden.shape[0] for stage in recorder.replayed] == [256, 256, 64, 64]


def test_batches_that_stay_too_large_for_a_bucket_run_plainly():
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain)
    assert_equal_runs(loop, plain, random_batch([TOKENS[-1], 1], 0.0))
    assert_equal_runs(loop, plain, random_batch([1] * (MAX_SAMPLES + 1), 0.0))
    assert not recorder.recorded


def test_when_no_more_buckets_are_allowed():
    """Smaller batches go into one that is there, larger ones through the plain loop."""
    plain = random_loop(depth=DEPTH, layer=CheckedLayer)
    loop, recorder = graphed(plain, move=ALWAYS_MOVE, max_buckets=1)
    for lengths, replayed in (([100, 60, 5], True), ([200, 100], False), ([3], True), ([50] * 5, True), ([150], False)):
        recorder.replayed.clear()
        assert_equal_runs(loop, plain, random_batch(lengths, 0.5))
        assert bool(recorder.replayed) is replayed
    assert {stage.inputs.hidden.shape[0] for stage in recorder.recorded} == {256}


@pytest.mark.parametrize("failing", range(DEPTH))
def test_a_failed_recording_is_told_once_and_the_plain_loop_takes_over(failing):
    class Failing(HostileRecorder):
        def record(self, *arguments):
            if len(self.recorded) == failing:
                raise RuntimeError("operation not permitted when stream is capturing")
            return super().record(*arguments)

    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain, Failing())
    batch = random_batch([5, 9, 0, 30], 1e-6)
    with pytest.warns(RuntimeWarning, match=f"no CUDA graphs.*layers {failing + 1} to .*stream is capturing"):
        assert_equal_runs(loop, plain, batch)
    recorder.replayed.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal_runs(loop, plain, batch)
        prepare(loop, [(10, 1, 10)])
    assert not recorder.replayed


def test_weights_on_a_cpu_are_told_and_run_plainly():
    plain = random_loop(depth=DEPTH)
    with pytest.warns(RuntimeWarning, match="no CUDA graphs.*the weights are on cpu"):
        loop = GraphedLoop(plain.layers, plain.heads, plain.backend)
    assert loop.dtype == torch.float64
    assert_equal_runs(loop, plain, random_batch([5, 9], 0.5))


def test_a_call_during_another_runs_plainly():
    plain = random_loop(depth=DEPTH)
    loop, recorder = graphed(plain)
    inner = []

    class Calling(TorchLayer):
        def __call__(self, *arguments):
            if not inner:
                inner.append(True)
                assert_equal_runs(loop, plain, batch)
            return super().__call__(*arguments)

    batch = random_batch([5, 9], 0.5)
    loop.layers[1] = Calling(plain.layers[1].weights)
    assert_equal_runs(loop, plain, batch)
    assert inner and len({id(stage) for stage in recorder.replayed}) == len(recorder.replayed)


def test_a_batch_of_another_dtype_is_not_cast_in_silence():
    plain = random_loop(depth=DEPTH)
    loop, _ = graphed(plain)
    with pytest.raises(RuntimeError, match="dtype"):
        loop.run(random_batch([5, 9], 0.5, dtype=torch.float32), ENTROPY_RULE)


def test_results_belong_to_the_caller_and_the_batch_stays_as_it_was():
    plain = random_loop(depth=DEPTH)
    loop, _ = graphed(plain)
    batch = random_batch([5, 9, 30], 0.5)
    before = copy.deepcopy(batch)
    first = loop.run(batch, ENTROPY_RULE)
    kept = copy.deepcopy(first)
    loop.run(random_batch([5, 9, 30], 0.5), ENTROPY_RULE)
    assert torch.equal(first.logits, kept.logits) and torch.equal(first.exit_layer, kept.exit_layer)
    assert all(torch.equal(getattr(batch, name), getattr(before, name)) for name in ("hidden", "sample_index", "speed"))


def test_weights_written_in_place_are_seen():
    plain = random_loop(depth=DEPTH)
    loop, _ = graphed(plain)
    batch = random_batch([5, 9, 30], 0.5)
    before = assert_equal_runs(loop, plain, batch).logits
    plain.layers[0].weights.qkv_weight.mul_(-1.5)
    plain.heads[0].tensors.output_weight.mul_(0.5)
    assert not torch.equal(assert_equal_runs(loop, plain, batch).logits, before)


def test_recorded_in_inference_mode_and_run_outside():
    plain = random_loop(depth=DEPTH)
    loop, _ = graphed(plain, move=ALWAYS_MOVE)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            for lengths in ([100, 20], [5, 9], [300, 2]):
                assert_equal_runs(loop, plain, random_batch(lengths, [0.9, 1e-6]))

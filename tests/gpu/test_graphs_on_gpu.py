"""The layer loop on a GPU, launched and recorded in CUDA graphs: the same answers, and nobody waits."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import random
import warnings

import pytest
import torch

from fastbert_kernels import _extension
from fastbert_kernels.backends import BACKENDS
from fastbert_kernels.criteria import WITH_HISTORY, Criterion
from fastbert_kernels.engine.buckets import MoveCost
from fastbert_kernels.engine.graphs import GraphedLoop
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH, Rule
from helpers.criteria import options_of
from helpers.encoders import random_batch, random_loop
from helpers.patched import record_asked_layers

pytestmark = pytest.mark.gpu

GPU_BACKENDS = [name for name, backend in BACKENDS.items() if backend.device_type == "cuda"]
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # of an uncertainty; products round by their shape


@pytest.fixture(params=GPU_BACKENDS)
def backend(request):
    if reason := BACKENDS[request.param].unavailable():
        pytest.skip(f"backend {request.param}: {reason}")
    return request.param


def loops(backend, dtype=torch.bfloat16, layer=TorchLayer, **options):
    """With no head behind layers 2 and 5."""
    plain = random_loop(depth=6, hidden_size=128, dtype=dtype, device="cuda", backend=backend, layer=layer)
    plain.heads[1] = plain.heads[4] = None
    return plain, GraphedLoop(plain.layers, plain.heads, backend, on_demand=True, **options)


def batch_of(lengths, speed, dtype=torch.bfloat16):
    return random_batch(lengths, speed, hidden_size=128, dtype=dtype, device="cuda")


def random_lengths():
    return [random.choice([0, 1, random.randint(1, 130)]) for _ in range(random.randint(1, 12))] + [3]


def assert_same_answers(got, want, batch, dtype=torch.bfloat16, rule=ENTROPY_RULE):
    """Samples that left elsewhere were undecided: where the earlier of both exits was, the uncertainty is near Speed.
    The others agree."""
    speed = torch.empty_like(batch.speed)
    speed[batch.sample_index.long()] = batch.speed
    same = got.exit_layer == want.exit_layer
    limits = speed.new_tensor(rule.limits(int(want.exit_layer.max())))
    speed = speed.minimum(limits[torch.minimum(got.exit_layer, want.exit_layer) - 1])
    earlier = torch.where(got.exit_layer < want.exit_layer, got.uncertainty, want.uncertainty)
    assert ((earlier - speed).abs()[~same] < TOLERANCE[dtype]).all()
    torch.testing.assert_close(
        got.uncertainty[same], want.uncertainty[same], rtol=0, atol=TOLERANCE[dtype], equal_nan=True
    )
    torch.testing.assert_close(got.logits[same], want.logits[same], rtol=0, atol=6 * TOLERANCE[dtype], equal_nan=True)


@contextlib.contextmanager
def synchronisation_forbidden():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "options", [{"late": 0, "whole_depth_samples": 0}, {"late": 1, "whole_depth_samples": 0}, {}], ids=str
)
@pytest.mark.parametrize("speed", [None, 0.0, 0.5, 0.9, 2.0])
def test_recorded_equals_launched(backend, dtype, fused, options, speed):
    layer = pytest.importorskip("fastbert_kernels.engine.fused_layer").FusedLayer if fused else TorchLayer
    plain, graphed = loops(backend, dtype, layer, move=MoveCost(seconds=0), **options)
    rule = FULL_DEPTH if speed is None else ENTROPY_RULE
    for lengths in ([9], [64, 1, 0, 130, 5], [40] * 30, [9], [512, 300]):
        batch = batch_of(lengths, speed or 0.0, dtype)
        got = graphed.run(copy.copy(batch), rule)
        assert_same_answers(got, plain.run(copy.copy(batch), rule), batch, dtype)


@pytest.mark.parametrize("options", [{"whole_depth_samples": 0}, {}], ids=str)
@pytest.mark.parametrize("criterion", [name for name in Criterion if name not in WITH_HISTORY])
def test_rules_recorded_equal_launched(backend, options, criterion):
    """A Speed per layer, other Speeds without a new recording, and heads that are not asked."""
    plain, graphed = loops(backend, move=MoveCost(seconds=0), **options)
    named = options_of(criterion, 2)
    rules = [Rule(**named)] + [
        Rule(**named, layer_speeds=speeds)
        for speeds in (
            (0.3, None, 0.8, 0.5, None, None),
            (0.8, None, 0.2, 0.9, None, None),
            (None, None, 0.6, None, None, None),
        )
    ]
    for rule in [*rules, *reversed(rules)]:
        for lengths in ([9], [64, 1, 0, 130, 5], [40] * 30):
            batch = batch_of(lengths, torch.linspace(0.3, 1, len(lengths)))
            got = graphed.run(copy.copy(batch), rule)
            assert_same_answers(got, plain.run(copy.copy(batch), rule), batch, rule=rule)
    assert len({place.plan for place in graphed.recordings.places.values()}) == 3


def test_patience_is_launched(backend):
    plain, graphed = loops(backend)
    batch = batch_of([9, 64, 3, 30], 0.5)
    rule = Rule("patience", 2, (math.inf, None, math.inf, None, None, None))
    assert torch.equal(graphed.run(copy.copy(batch), rule).exit_layer, plain.run(copy.copy(batch), rule).exit_layer)
    assert not graphed.recordings.places


def test_two_hundred_batches_and_steady_memory(backend):
    random.seed(7)
    plain, graphed = loops(backend, move=MoveCost(seconds=0), max_buckets=8)
    reserved = []
    for number in range(400):
        lengths = random_lengths()
        batch = batch_of(lengths, torch.rand(len(lengths)))
        got = graphed.run(copy.copy(batch), ENTROPY_RULE)
        if number < 200:
            assert_same_answers(got, plain.run(copy.copy(batch), ENTROPY_RULE), batch)
        elif number % 100 == 99 or number == 200:
            reserved.append(torch.cuda.memory_reserved())
    assert max(reserved) <= reserved[0] + 2**23  # a few stages that are rare may have been recorded late


def test_neither_loop_waits_for_the_device(backend):
    plain, graphed = loops(backend)
    batch = batch_of([9, 64, 3, 30], [0.0, 0.5, 0.9, 2.0])
    speeds, others = (0.5, None, 0.9, 0.1, None, None), (0.9, None, 0.1, 0.5, None, None)
    pairs = [(rule, rule) for rule in (FULL_DEPTH, ENTROPY_RULE, Rule("patience", 1))]
    pairs.append((Rule(layer_speeds=speeds), Rule(layer_speeds=others)))
    for loop, (first, second) in itertools.product((plain, graphed), pairs):
        loop.run(copy.copy(batch), first)  # compiles or records
        with synchronisation_forbidden():
            loop.run(copy.copy(batch), second)


def test_the_device_ends_the_graph_of_all_layers(backend):
    """Only the stages that are needed write; all of them are one launch."""
    native, detail = _extension.load()
    reason = detail if native is None or native.cuda_version is None else native.depth_graph_unsupported()
    if native is None or native.cuda_version is None or reason:
        pytest.skip(f"no graphs of all layers: {reason}")
    _, graphed = loops(backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a chain that failed would be told
        graphed.run(batch_of([9, 30, 4], 1e-6), ENTROPY_RULE)
    (place,) = graphed.recordings.places.values()
    stages = [stage for _, stage in sorted(place.stages.items())]
    assert len(stages) == 4  # up to the heads behind layers 1, 3, 4 and 6
    for speeds, needed in (([2.0, 2.0, 2.0], 1), ([2.0, 1e-6, 2.0], 4), ([2.0, 2.0, 2.0], 1)):
        for stage in stages:
            stage.counts.fill_(-5)
        got = graphed.run(batch_of([9, 30, 4], speeds), ENTROPY_RULE)
        assert [int(stage.counts[0]) >= 0 for stage in stages] == [number < needed for number in range(4)]
        assert int(got.exit_layer.max()) == (1 if needed == 1 else 6)


def test_heads_are_skipped_once_nobody_can_leave(backend, monkeypatch):
    """On a GPU this is known behind the first head."""
    asked = record_asked_layers(monkeypatch)
    plain, _ = loops(backend)
    result = plain.run(batch_of([9, 30, 4], 0.0), ENTROPY_RULE)
    assert asked == [1, 6] and result.exit_layer.tolist() == [6] * 3


def test_runs_on_different_streams_follow_each_other(backend):
    """The second run must not write into the memory of the first, which its stream has hardly begun with."""
    plain, graphed = loops(backend)
    first, second = batch_of([9, 30, 4], 0.0), batch_of([5, 20, 11], 0.0)
    wanted = [plain.run(copy.copy(batch), FULL_DEPTH) for batch in (first, second)]
    graphed.run(copy.copy(first), FULL_DEPTH)
    torch.cuda.synchronize()
    streams, got = [torch.cuda.Stream(), torch.cuda.Stream()], []
    for stream, batch, cycles in zip(streams, (first, second), (50_000_000, 0), strict=True):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(cycles)
            got.append(graphed.run(copy.copy(batch), FULL_DEPTH))
    torch.cuda.synchronize()
    for result, want, batch in zip(got, wanted, (first, second), strict=True):
        assert_same_answers(result, want, batch)


def test_a_run_waits_for_its_input_on_the_current_stream(backend):
    _, graphed = loops(backend)
    batch = batch_of([9, 30, 4], 0.0)
    want = graphed.run(copy.copy(batch), ENTROPY_RULE)
    hidden = batch.hidden.clone()
    batch.hidden.zero_()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        batch.hidden.copy_(hidden)
        got = graphed.run(copy.copy(batch), ENTROPY_RULE)
    stream.synchronize()
    assert torch.equal(got.logits, want.logits)


def test_weights_written_in_place_are_seen(backend):
    plain, graphed = loops(backend)
    batch = batch_of([9, 30, 4], 1e-6)
    before = graphed.run(copy.copy(batch), ENTROPY_RULE).logits
    plain.layers[2].weights.output_weight.mul_(-1)
    plain.heads[-1].tensors.output_weight.mul_(0.25)
    got = graphed.run(copy.copy(batch), ENTROPY_RULE)
    assert not torch.equal(got.logits, before)
    assert_same_answers(got, plain.run(copy.copy(batch), ENTROPY_RULE), batch)


def test_recorded_in_inference_mode_and_run_outside(backend):
    plain, graphed = loops(backend, move=MoveCost(seconds=0))
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            for lengths in ([100, 20], [5, 9], [300, 2]):
                batch = batch_of(lengths, [2.0, 0.0])
                want = plain.run(copy.copy(batch), ENTROPY_RULE)
                assert_same_answers(graphed.run(copy.copy(batch), ENTROPY_RULE), want, batch)


def test_what_cannot_be_recorded_is_launched():
    """The reference asks the device for numbers, which no capture allows; torch would not recover from one that
    fails."""
    plain, graphed = loops("reference")
    batch = batch_of([9, 30, 4], 0.5)
    want = plain.run(copy.copy(batch), ENTROPY_RULE)
    stream = torch.cuda.current_stream()
    with pytest.warns(RuntimeWarning, match="launched by itself: layers 1 to 1 could not be recorded .*plain PyTorch"):
        got = graphed.run(copy.copy(batch), ENTROPY_RULE)
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()
    torch.randn(1, device="cuda")
    assert_same_answers(got, want, batch)
    assert_same_answers(graphed.run(copy.copy(batch), ENTROPY_RULE), want, batch)

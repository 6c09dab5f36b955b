"""Pooled heads, and layers without a head, in every kind of encoder: against each sample alone, in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from fastbert_kernels import ops
from fastbert_kernels.engine import loop as loop_module
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.dtypes import hidden_dtype, int8_products
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.rule import FULL_DEPTH, Rule
from helpers.accuracy import packed_layer
from helpers.encoders import (
    ENCODERS,
    POOLINGS,
    WIDTH,
    attentive,
    cast,
    evaluate,
    make_batch,
    make_encoder,
    pooled,
    random_loop,
)
from helpers.op_inputs import cu_seqlens_of

DEPTH = 5
LENGTHS = [7, 1, 30, 3, 64, 2, 33, 9, 4]
SUBSETS = {"every layer": [1, 2, 3, 4, 5], "some layers": [2, 4, 5], "the last layer": [5]}


def one_by_one(layers, heads, batch, lengths):
    """(exit layer, logits, smallest distance of an uncertainty from its Speed) of each sample."""
    for b, rows in enumerate(batch.hidden.split(lengths)):
        distance = math.inf
        for number, (layer, head) in enumerate(zip(layers, heads, strict=True), start=1):
            rows = layer(rows, cu_seqlens_of([lengths[b]]), lengths[b])
            if head is None:
                continue
            logits, uncertainty = evaluate(head, rows)
            if number == len(layers):
                break
            distance = min(distance, abs(float(uncertainty - batch.speed[b])))
            if uncertainty < batch.speed[b]:
                break
        yield number, logits, distance


def assert_as_alone(kind, heads, batch, lengths=LENGTHS):
    layers = random_loop(depth=DEPTH, hidden_size=WIDTH).layers
    encoder = make_encoder(kind, layers, heads)
    inputs = copy.copy(batch)
    inputs.hidden = batch.hidden.to(encoder.dtype)
    got = encoder.run(inputs, Rule())
    exact = encoder.dtype == torch.float64
    for row, (number, logits, distance) in enumerate(one_by_one(layers, heads, batch, lengths)):
        if exact or distance > 1e-4:
            assert got.exit_layer[row] == number
            torch.testing.assert_close(got.logits[row].double(), logits, rtol=1e-5, atol=1e-6 if exact else 1e-4)
    return got


HEADS = [
    {"sizes": (3,), "pooling": "first"},
    {"sizes": (3,), "pooling": "mean"},
    {"sizes": (20, 3), "pooling": "max", "activation": "relu"},
    {"sizes": (40, 3), "pooling": "first", "activation": "tanh"},
    {"sizes": (130, 7, 5), "pooling": "mean", "activation": "gelu"},
    {"sizes": (16, 70, 2), "pooling": "max", "activation": "identity"},
]


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("where", SUBSETS)
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_every_sample_leaves_as_if_it_were_alone(poisoned_memory, kind, where, head):
    options = dict(head)
    sizes = options.pop("sizes")
    heads = [pooled(*sizes, **options) if number in SUBSETS[where] else None for number in range(1, DEPTH + 1)]
    speed = torch.linspace(0, 1, len(LENGTHS))
    got = assert_as_alone(kind, heads, make_batch(LENGTHS, speed))
    layers = set(got.exit_layer.tolist())
    assert layers <= set(SUBSETS[where])
    assert len(layers) > 1 or where == "the last layer"


@pytest.mark.parametrize("kind", ENCODERS)
def test_kinds_of_heads_may_be_mixed(poisoned_memory, kind):
    heads = [None, attentive(), None, pooled(3, pooling="mean"), attentive()]
    got = assert_as_alone(kind, heads, make_batch(LENGTHS, torch.linspace(0, 1, len(LENGTHS))))
    assert len(set(got.exit_layer.tolist())) > 1


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("lengths", [[1], [17], LENGTHS])
@pytest.mark.parametrize(("speed", "layer"), [(2.0, 2), (0.0, DEPTH), (math.nan, DEPTH)])
def test_all_leave_at_the_first_head_or_none_before_the_last(kind, lengths, speed, layer):
    heads = [None, pooled(40, 3), None, pooled(40, 3), pooled(40, 3)]
    got = assert_as_alone(kind, heads, make_batch(lengths, speed), lengths)
    assert got.exit_layer.tolist() == [layer] * len(lengths)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_bad_sample_and_an_empty_one_leave_their_neighbours_alone(poisoned_memory, kind, pooling):
    layers = random_loop(depth=DEPTH, hidden_size=WIDTH).layers
    heads = [None, *(pooled(40, 3, pooling=pooling) for _ in range(DEPTH - 1))]
    encoder = make_encoder(kind, layers, heads)

    def run(bad, speed):
        torch.manual_seed(4)
        batch = make_batch([5, 9, 0, 6], speed, dtype=encoder.dtype)
        batch.hidden[7, 3] = bad
        return encoder.run(batch, Rule())

    for speed in (0.5, 2.0):
        want, got = run(0.25, speed), run(math.nan, speed)
        for name in ("logits", "uncertainty", "exit_layer"):
            assert torch.equal(getattr(got, name)[[0, 3]], getattr(want, name)[[0, 3]])
        assert got.uncertainty[[1, 2]].isnan().all() and got.exit_layer[[1, 2]].tolist() == [DEPTH] * 2


@pytest.mark.parametrize(
    ("speed", "rule", "asked"),
    [(1e-9, Rule(), [2, 4, 5]), (0.0, Rule(), [5]), (2.0, Rule(), [2]), (2.0, FULL_DEPTH, [5])],
)
def test_layers_without_a_head_cost_nothing(monkeypatch, speed, rule, asked):
    """Behind such a layer there is neither head nor compaction nor a read by the host."""
    calls = []

    def counted(name, original):
        def call(*arguments, **options):
            calls.append((name, arguments[3] if name == "let_out" else None))
            return original(*arguments, **options)

        return call

    monkeypatch.setattr(loop_module, "let_out", counted("let_out", loop_module.let_out))
    monkeypatch.setattr(loop_module, "_read", counted("read", loop_module._read))
    monkeypatch.setattr(ops, "compact", counted("compact", ops.compact))
    layers = random_loop(depth=DEPTH, hidden_size=WIDTH).layers
    heads = [None, pooled(3), None, pooled(3), pooled(3)]
    LayerLoop(layers, heads, "reference").run(make_batch(LENGTHS, speed), rule)
    names = [name for name, _ in calls]
    assert [layer for name, layer in calls if name == "let_out"] == asked
    assert names.count("compact") == len(asked) and names.count("read") == len(asked) - (DEPTH in asked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("speed", [0.0, 0.3, 0.6, 1.0])
def test_compiled_loop_equals_a_loop_over_its_parts(dtype, speed):
    """The one native call against layers and heads one by one, in every precision."""
    rows_dtype = hidden_dtype(dtype, torch.float32)
    layers = random_loop(depth=DEPTH, hidden_size=WIDTH, dtype=torch.float32).layers
    heads = [None, *(cast(pooled(40, 3, pooling="mean"), rows_dtype) for _ in range(DEPTH - 1))]
    encoder = CompiledEncoder([layer.weights for layer in layers], heads, rows_dtype, int8_products(dtype))
    parts = [packed_layer(layer.weights, dtype) for layer in layers]
    batch = make_batch(LENGTHS, speed, dtype=rows_dtype)
    got = encoder.run(copy.copy(batch), Rule())
    for b, rows in enumerate(batch.hidden.split(LENGTHS)):
        bounds = cu_seqlens_of([LENGTHS[b]])
        number, keep = 0, True
        while keep and number < DEPTH:
            rows, head = parts[number](rows, bounds), heads[number]
            number += 1
            if head is None:
                continue
            logits, uncertainty, _, keep = ops.pooled_exit_head(
                rows, bounds, batch.speed[:1], list(head.weights), list(head.biases), pooling="mean", backend="cpu"
            )
        assert got.exit_layer[b] == number
        torch.testing.assert_close(got.logits[b], logits[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got.uncertainty[b], uncertainty[0], rtol=1e-5, atol=1e-5)
    if speed == 0.6:
        assert got.exit_layer.unique().numel() > 1


@pytest.mark.parametrize("kind", ["reference", "compiled"])
def test_the_last_layer_needs_a_head(kind):
    layers = random_loop(depth=2, hidden_size=WIDTH).layers
    with pytest.raises(ValueError, match="the last layer has no exit head"):
        make_encoder(kind, layers, [pooled(3), None]).run(make_batch([3], 0.5), Rule())

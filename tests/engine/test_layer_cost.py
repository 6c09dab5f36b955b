"""What a layer costs by its tokens: interpolated, and measured by a clock of the test's own."""

from __future__ import annotations

import pytest
import torch

from fastbert_kernels.engine import layer_cost
from fastbert_kernels.engine.layer_cost import STEP_SECONDS, LayerCost, measure_layer_cost
from fastbert_kernels.engine.packed import PackedBatch
from helpers.encoders import random_loop


def test_times_between_and_beyond_what_is_known():
    cost = LayerCost((10, 20, 40), (1.0, 1.5, 3.0))
    assert [cost(tokens) for tokens in (1, 10, 15, 20, 30, 40, 80)] == [1.0, 1.0, 1.25, 1.5, 2.25, 3.0, 6.0]


def test_a_step_is_full_where_more_tokens_make_none_much_cheaper():
    assert LayerCost((10, 20, 40), (1.0, 1.5, 3.0)).full == 20
    assert LayerCost((10, 20, 40), (1.0, 1.5, 2.9)).full == 20  # 3 % above the best
    assert LayerCost((10, 20, 40), (1.0, 1.5, 2.0)).full == 40
    assert LayerCost((7,), (1.0,)).full == 7


@pytest.mark.parametrize(
    ("tokens", "seconds", "message"),
    [
        ((), (), "make no cost"),
        ((1, 2), (1.0,), "2 numbers of tokens and 1 times"),
        ((2, 2), (1.0, 1.0), "must ascend"),
        ((0, 2), (1.0, 1.0), "must ascend from at least 1"),
        ((1, 2), (1.0, 0.0), "positive number of seconds"),
        ((1,), (float("nan"),), "positive number of seconds"),
    ],
)
def test_what_is_no_cost(tokens, seconds, message):
    with pytest.raises(ValueError, match=message):
        LayerCost(tokens, seconds)


@pytest.mark.parametrize(("beside", "largest", "full"), [(1e-12, 512, 128), (5e-4, 4096, 1024)])
def test_batches_are_measured_until_a_token_becomes_no_cheaper(monkeypatch, beside, largest, full):
    """The layer of this test takes a millisecond, and from 128 tokens on time in proportion to them."""
    monkeypatch.setattr(layer_cost, "STEP_SECONDS", beside)
    now, sizes = 0.0, []
    loop = random_loop(depth=3)

    def layer(hidden, cu_seqlens, max_seqlen):
        nonlocal now
        sizes.append(len(hidden))
        now += max(len(hidden), 128) * 1e-3 / 128
        return hidden

    layer.dtype = torch.float64
    loop.layers[0] = layer

    def batch_of(tokens):
        bounds = torch.tensor([0, tokens], dtype=torch.int32)
        return PackedBatch.of(torch.zeros(tokens, 32, dtype=torch.float64), bounds, tokens, 0.0)

    cost = measure_layer_cost(loop, batch_of, clock=lambda: now)
    assert sizes == [32] + [
        size for size in (32, 64, 128, 256, 512, 1024, 2048, 4096) for _ in range(2) if size <= largest
    ]
    assert cost.full == full and cost(128) == pytest.approx(1e-3 + beside)


def test_a_slow_layer_is_not_measured_for_long_and_a_short_text_is_all_there_may_be():
    now, loop = 0.0, random_loop(depth=1)

    def clock():
        nonlocal now
        now += 1.0
        return now

    def batch_of(tokens):
        bounds = torch.tensor([0, 5], dtype=torch.int32)
        return PackedBatch.of(torch.zeros(5, 32, dtype=torch.float64), bounds, 5, 0.0)

    assert measure_layer_cost(loop, batch_of, clock=clock) == LayerCost((5,), (1.0 + STEP_SECONDS,))
    assert measure_layer_cost(loop, batch_of, clock=lambda: 0.0) == LayerCost((5,), (STEP_SECONDS,))

"""The choice of a kernel for the attention, with a clock of its own."""

from __future__ import annotations

import pytest
import torch

from fastbert_kernels.engine import attention, attention_choice
from fastbert_kernels.engine.attention_choice import DENSE, PADDED, SHAPES, UNMEASURED, VARLEN, WAYS, AttentionChoice
from fastbert_kernels.measured_once import MeasuredOnce
from helpers.op_inputs import cu_seqlens_of

GPU = torch.device("cuda", 0)
BFLOAT16 = torch.bfloat16


class Clock:
    """Knows what every way takes; a way that it does not know has no kernel."""

    def __init__(self, seconds):
        self.seconds, self.asked = seconds, []

    def __call__(self, call):
        way, shape = call()
        self.asked.append((way, shape))
        if way not in self.seconds:
            raise RuntimeError("no kernel for such heads")
        return self.seconds[way](*shape) if callable(self.seconds[way]) else self.seconds[way]


def make_call(way, shape):
    return lambda: (way, shape)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention_choice, "_measured", MeasuredOnce())
    monkeypatch.delenv(attention_choice.VARIABLE, raising=False)


def choice_of(clock, dtype=BFLOAT16, head_size=64, device=GPU):
    return attention_choice.choice_for(device, dtype, 12, head_size, make_call, clock)


def test_the_fastest_of_what_is_possible(gpu):
    clock = Clock({VARLEN: 3e-5, DENSE: 2e-5, PADDED: 2.5e-5})
    choice = choice_of(clock)
    assert clock.asked == [(way, shape) for shape in SHAPES for way in WAYS]
    assert choice.way(1024, 8, 128, BFLOAT16, 64) == DENSE
    assert choice.way(1023, 8, 128, BFLOAT16, 64) == PADDED  # one sample is shorter
    assert choice.way(600, 8, 128, BFLOAT16, 64) == VARLEN  # 1,024 cells would be computed
    assert choice.way(600, 8, 128, BFLOAT16, 64, biased=True) == PADDED
    assert choice.way(600, 8, 128, torch.float32, 64) == PADDED
    assert choice.way(600, 8, 128, BFLOAT16, 26) == PADDED
    assert choice.as_dict()["1024 tokens in samples of 128"] == {VARLEN: 30.0, DENSE: 20.0, PADDED: 25.0}


def test_the_times_are_those_of_a_batch_like_it(gpu):
    fast_when = Clock({VARLEN: lambda tokens, length: 1e-6 * (tokens < 4096 or length > 128) + 1e-6, DENSE: 1.5e-6})
    choice = choice_of(fast_when)
    ways = {shape: choice.way(shape[0], shape[0] // shape[1], shape[1], BFLOAT16, 64) for shape in SHAPES}
    assert ways == {(1024, 128): DENSE, (1024, 512): DENSE, (16384, 128): VARLEN, (16384, 512): DENSE}
    assert choice.way(64, 1, 64, BFLOAT16, 64) == DENSE and choice.way(5000, 100, 50, BFLOAT16, 64) == VARLEN


def test_measured_once_for_a_device_and_kind_of_heads(gpu):
    clock = Clock(dict.fromkeys(WAYS, 1e-5))
    first = choice_of(clock)
    asked = len(clock.asked)
    assert choice_of(clock) is first and len(clock.asked) == asked
    for other in ({"head_size": 32}, {"dtype": torch.float16}, {"device": torch.device("cuda", 1)}):
        assert choice_of(clock, **other) is not first
    assert len(clock.asked) == 4 * asked
    choice_of(clock, dtype=torch.float32)
    assert len(clock.asked) == 4 * asked + 2 * len(SHAPES)  # no FlashAttention in float32


def test_a_way_that_fails_is_not_taken(gpu):
    choice = choice_of(Clock({VARLEN: 9e-5, PADDED: float("nan")}))
    assert choice.way(1024, 8, 128, BFLOAT16, 64) == VARLEN
    none = choice_of(Clock({}), head_size=32)
    assert none.way(1024, 8, 128, BFLOAT16, 32) == VARLEN and none.way(1024, 8, 128, torch.float32, 32) == DENSE


def test_the_environment_overrides(gpu, monkeypatch):
    clock = Clock(dict.fromkeys(WAYS, 1e-5))
    monkeypatch.setenv(attention_choice.VARIABLE, PADDED)
    choice = choice_of(clock)
    assert not clock.asked and choice.as_dict() == PADDED
    assert choice.way(1024, 8, 128, BFLOAT16, 64) == PADDED
    monkeypatch.setenv(attention_choice.VARIABLE, DENSE)
    assert choice_of(clock).way(1000, 8, 128, BFLOAT16, 64) == VARLEN  # where it cannot be taken
    monkeypatch.setenv(attention_choice.VARIABLE, "flash")
    with pytest.raises(ValueError, match="FASTBERT_ATTENTION must be one of varlen, dense, padded, not 'flash'"):
        choice_of(clock)


def test_nothing_is_measured_where_there_is_no_gpu():
    assert choice_of(Clock({}), device=torch.device("cpu")) is UNMEASURED and UNMEASURED.as_dict() is None
    assert choice_of(Clock({})) is UNMEASURED


def by_hand(query, key, value, bias):
    """Attention of one sample, [n, heads, d]."""
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[2] ** 0.5
    if bias is not None:
        position = torch.arange(len(query))
        scores = scores + bias[:, position - position[:, None] + bias.shape[1] // 2]
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)


@pytest.mark.parametrize("positions", [None, 40])
def test_all_ways_agree(positions):
    heads = torch.randn(36, 3, 4, 8, dtype=torch.float64)
    bias = None if positions is None else torch.randn(4, 2 * positions - 1, dtype=torch.float64)
    bounds = cu_seqlens_of([12, 12, 12])
    want = torch.cat([by_hand(*heads[begin : begin + 12].unbind(1), bias) for begin in (0, 12, 24)])
    for way in (DENSE, PADDED):
        got = attention.attend_by(way, heads, bounds, 12, bias)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="no way 'flash'"):
        attention.attend_by("flash", heads, bounds, 12)


def test_a_layer_asks_its_choice(monkeypatch):
    asked = []

    class Choice(AttentionChoice):
        def way(self, tokens, samples, longest, dtype, head_size, *, biased=False):
            asked.append((tokens, samples, longest, dtype, head_size, biased))
            return DENSE

    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        qkv = torch.empty(12, 3 * 16, dtype=BFLOAT16, device="cuda")
        bounds = torch.empty(4, dtype=torch.int32, device="cuda")
        out = attention.packed_attention(qkv, bounds, 4, 2, choice=Choice({}))
    assert out.shape == (12, 16) and asked == [(12, 3, 4, BFLOAT16, 8, False)]

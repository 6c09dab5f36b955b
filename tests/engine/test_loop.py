"""The layer loop: who leaves where, which heads are asked, and numbers on their way to the host."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import fastbert_kernels
from fastbert_kernels import ops
from fastbert_kernels.criteria import WITH_HISTORY
from fastbert_kernels.engine.loop import HostCopy, bound_to_stay
from fastbert_kernels.engine.rule import FULL_DEPTH, Rule
from helpers.criteria import EVERY_CRITERION
from helpers.encoders import random_batch, random_loop
from helpers.models import padded_batch, spread_model
from helpers.op_inputs import cu_seqlens_of
from helpers.patched import assert_compiled_model_answers_alike, record_asked_layers

DEPTH = 5
LENGTHS = [7, 1, 30, 3, 64, 2, 33, 9, 0, 4]


def one_by_one(loop, batch, lengths):
    """(row, exit layer, logits) of each sample alone, every head asked."""
    for b, rows in enumerate(batch.hidden.split(lengths)):
        bounds, executed, keep = cu_seqlens_of([lengths[b]]), 0, True
        while keep and executed < len(loop.layers):
            rows = loop.layers[executed](rows, bounds, lengths[b]) if lengths[b] else rows
            head = loop.heads[executed].tensors
            logits, _, _, keep = ops.attentive_head(rows, bounds, batch.speed[b : b + 1], head)
            executed += 1
        yield int(batch.sample_index[b]), executed, logits[0].float()


@pytest.fixture
def asked(monkeypatch):
    return record_asked_layers(monkeypatch)


@pytest.mark.parametrize("speed", [0.0, 0.4, 0.8, 1.0, 2.0, math.nan, "spread"])
def test_every_sample_leaves_as_if_it_were_alone(poisoned_memory, speed):
    loop = random_loop(depth=DEPTH)
    batch = random_batch(LENGTHS, torch.linspace(-0.1, 1.1, len(LENGTHS)) if speed == "spread" else speed)
    got = loop.run(copy.copy(batch), Rule())
    for row, number, logits in one_by_one(loop, batch, LENGTHS):
        assert got.exit_layer[row] == number
        torch.testing.assert_close(got.logits[row], logits, equal_nan=True)
    if speed == 0.8:
        assert got.exit_layer.unique().numel() > 2


def test_at_full_depth_only_the_teacher_is_asked(asked):
    result = random_loop(depth=DEPTH).run(random_batch(LENGTHS, 1.0), FULL_DEPTH)
    assert asked == [DEPTH] and result.exit_layer.tolist() == [DEPTH] * len(LENGTHS)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_heads_that_can_let_nobody_out_are_not_asked(asked, speed):
    random_loop(depth=DEPTH).run(random_batch(LENGTHS, speed), Rule())
    assert asked == [DEPTH]


def test_no_head_is_asked_when_only_samples_are_left_that_none_lets_out(asked):
    """Speed 2 is above every uncertainty, so those samples leave behind the first layer; the empty one never does."""
    lengths = [length for length in LENGTHS if length]
    speed = [2.0, 0.0, 2.0, math.nan, 2.0, 2.0, 2.0, 0.0, 2.0]
    result = random_loop(depth=DEPTH).run(random_batch(lengths, speed), Rule())
    assert asked == [1, DEPTH]
    assert sorted(result.exit_layer.tolist()) == [1] * 6 + [DEPTH] * 3


def test_the_loop_ends_with_the_last_sample(asked):
    result = random_loop(depth=DEPTH).run(random_batch([5, 2], 2.0), Rule())
    assert asked == [1] and result.exit_layer.tolist() == [1, 1]


@pytest.mark.parametrize("options", EVERY_CRITERION, ids=str)
def test_bound_to_stay(options):
    speed = torch.tensor([0.0, -0.0, 1e-30, math.nan, -1.0, 0.5, math.inf])
    assert bound_to_stay(speed, Rule(**options)) == (0 if options["criterion"] in WITH_HISTORY else 4)


def test_a_host_copy_is_a_copy():
    counts, speed = torch.tensor([3, 17], dtype=torch.int32), torch.rand(4, 2)[:, 0]
    want = speed.tolist()
    copy = HostCopy(counts, speed)
    counts.zero_()
    speed.zero_()
    got = copy.wait()
    assert got[0].tolist() == [3, 17] and got[0].dtype == torch.int32 and got[1].tolist() == want


@pytest.mark.proof
def test_torch_compile_of_the_loop():
    model = fastbert_kernels.patch(spread_model(), backend="reference")
    assert_compiled_model_answers_alike(model, padded_batch([5, 9, 2, 30]))


@pytest.mark.proof
def test_torch_compile_of_the_loop_with_a_rule():
    loop, batch = random_loop(depth=3), random_batch([5, 9, 2, 30], 0.9)
    torch._dynamo.reset()
    compiled = torch.compile(loop.run, backend="aot_eager")
    for rule in (Rule(layer_speeds=(0.5, 0.8, None)), Rule("patience", 1, (None, 1.0, None))):
        with torch.no_grad():
            want, got = loop.run(copy.copy(batch), rule), compiled(copy.copy(batch), rule)
        assert torch.equal(got.exit_layer, want.exit_layer)
        torch.testing.assert_close(got.logits, want.logits)


def test_a_batch_that_a_compaction_found_to_be_none_is_an_error():
    batch = random_batch([3, 2], [0.5, 0.5])
    with pytest.raises(RuntimeError, match="cu_seqlens leaves the rows"):
        batch.cut(-1, -1)

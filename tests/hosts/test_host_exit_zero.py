"""Exit zero of a patched model: the same answers, and no layer for those who leave."""

from __future__ import annotations

import copy

import pytest
import torch

import fastbert_kernels
from fastbert_hf import ExitRule
from helpers.criteria import exit_rules
from helpers.models import padded_batch, spread_model, with_exit_zero
from helpers.patched import assert_same_answers, only_the_fast_path, run

RULES = {
    "one Speed": 0.5,
    "per layer": [0.6, 0.3, 0.5, 0.4],
    "zero alone": ExitRule((0,), (0.6,)),
    "all leave": ExitRule((0,), (1.0,)),
    "not asked": ExitRule((1, 3), (0.4, 0.6)),
    "patience of 2": ExitRule((0, 1, 3), criterion="patience", parameter=2),
    **exit_rules((0, 2), 0.7),
}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_labels_and_layers_of_300_inputs(count_ties, backend):
    model, batch = with_exit_zero(spread_model()), padded_batch(torch.randint(1, 60, (300,)).tolist())
    unpatched, _, decided = assert_same_answers(model, batch, 0.5, backend)
    count_ties((~decided).sum(), 300)
    assert decided.sum() >= 290 and 20 < (unpatched.exit_layer == 0).sum() < 280


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_rules(rule):
    model, batch = with_exit_zero(spread_model()), padded_batch([7, 30, 1, 33, 64, 5, 12, 2, 9, 41])
    want, every = run(model, batch, speed=rule), run(model, batch, output_all_exits=True)
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    with only_the_fast_path(fast, fast.layers):
        got = run(fast, batch, speed=rule)
        fast_every = run(fast, batch, output_all_exits=True)
    assert torch.equal(got.exit_layer, want.exit_layer) and got.exit_layer.dtype == torch.int64
    for name in ("logits", "uncertainty"):
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-4)
    torch.testing.assert_close(fast_every.all_logits, every.all_logits, rtol=0, atol=1e-4)
    lengths = batch["attention_mask"].sum(dim=1)
    packed = fast.forward_packed(
        batch["input_ids"][batch["attention_mask"] > 0], torch.tensor([0, *lengths]).cumsum(0), speed=rule
    )
    for name in ("logits", "uncertainty", "exit_layer"):
        assert torch.equal(packed[name], got[name])


def test_multi_label_and_a_speed_for_each_sample():
    model, batch = with_exit_zero(spread_model()), padded_batch(torch.randint(1, 60, (100,)).tolist())
    model.config.problem_type = "multi_label_classification"
    assert_same_answers(model, batch, torch.linspace(0, 1, 100), "cpu")
    assert_same_answers(model, batch, 0.5, "cpu")


def test_what_is_written_to_the_table_is_seen():
    model, batch = fastbert_kernels.patch(with_exit_zero(spread_model())), padded_batch([5, 9, 3])
    rule = ExitRule((0,), (1.0,))
    before = run(model, batch, speed=rule)
    with torch.no_grad():
        model.exit_zero.table.mul_(0.5)
    after = run(model, batch, speed=rule)
    assert not torch.equal(before.logits, after.logits)
    assert torch.equal(after.logits, run(fastbert_kernels.unpatch(model), batch, speed=rule).logits)


def test_narrow_weights():
    model, batch = with_exit_zero(spread_model().bfloat16()), padded_batch([5, 9, 3])
    want = run(model, batch, speed=ExitRule((0,), (1.0,)))
    got = run(fastbert_kernels.patch(model), batch, speed=ExitRule((0,), (1.0,)))
    torch.testing.assert_close(got.logits, want.logits)


def test_a_pool_answers_them_at_once():
    torch.manual_seed(3)
    model, batch = fastbert_kernels.patch(with_exit_zero(spread_model())), padded_batch([7, 30, 1, 33, 64, 5, 12, 2])
    ids, bounds = batch["input_ids"][batch["attention_mask"] > 0], torch.tensor([0, 7, 30, 1, 33, 64, 5, 12, 2])
    for rule in RULES.values():
        want = model.forward_packed(ids, bounds.cumsum(0), speed=rule)
        with fastbert_kernels.pool(model, max_samples=16) as pool:
            futures = pool.submit(ids, bounds.cumsum(0), speed=rule, deadlines=[None] * 8)
            for row, future in enumerate(futures):
                answer = future.result(timeout=60)
                assert torch.equal(answer.logits, want.logits[row]) and answer.exit_layer == int(want.exit_layer[row])
            with pytest.raises(ValueError, match="7 deadlines for 8 samples"):
                pool.submit(ids, bounds.cumsum(0), speed=rule, deadlines=[None] * 7)
        with pytest.raises(RuntimeError, match="this pool is closed"):  # also where nobody needs a layer
            pool.submit(ids, bounds.cumsum(0), speed=rule)

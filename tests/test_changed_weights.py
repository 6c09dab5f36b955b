"""Weights that change after `patch`: the next call answers with the new ones."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import fastbert_kernels
from helpers.models import padded_batch, spread_model
from helpers.patched import assert_change_is_noticed, run

LENGTHS = [3, 512, 1, 64, 65, 2, 200]


def change_by_optimiser(model):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    model(**padded_batch(LENGTHS), output_all_exits=True).all_logits.square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()


def change_by_fused_optimiser(model):
    """It moves no version counter."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    model(**padded_batch(LENGTHS), output_all_exits=True).all_logits.square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()


def change_by_assignment(model):
    model.heads[0].query.weight = torch.nn.Parameter(torch.randn_like(model.heads[0].query.weight))
    model.backbone.encoder.layer[0].output.LayerNorm.bias.data = torch.randn(32)


@pytest.mark.parametrize(
    "change",
    [
        change_by_optimiser,
        change_by_fused_optimiser,
        change_by_assignment,
        lambda model: model.load_state_dict(spread_model(5).state_dict()),
        lambda model: model.to(torch.bfloat16).to(torch.float32),
    ],
    ids=["optimiser", "fused optimiser", "assignment", "load_state_dict", "to"],
)
@pytest.mark.filterwarnings("ignore:this patched model was called with autograd")
def test_changed_weights_are_noticed(change):
    model, batch = spread_model(), padded_batch(LENGTHS)
    assert_change_is_noticed(model, batch, change)


@pytest.mark.parametrize("made_under", [torch.enable_grad, torch.inference_mode])
def test_hidden_changes_are_noticed_when_the_model_is_patched_again(made_under):
    """Writes through `parameter.data`, and those to weights made under inference mode, move no version counter."""
    with made_under():
        model = spread_model()
    batch = padded_batch(LENGTHS)
    said = (
        pytest.warns(RuntimeWarning, match="count no writes") if made_under is torch.inference_mode else nullcontext()
    )
    with said:
        fastbert_kernels.patch(model)
    stale = run(model, batch).logits
    with torch.inference_mode():
        weight = model.layers[0].intermediate.dense.weight
        (weight if weight.is_inference() else weight.data).mul_(3)
    assert torch.equal(run(model, batch).logits, stale)
    got = run(fastbert_kernels.patch(model), batch).logits
    torch.testing.assert_close(got, run(fastbert_kernels.unpatch(model), batch).logits, rtol=0, atol=1e-4)
    assert not torch.allclose(got, stale, atol=1e-2)

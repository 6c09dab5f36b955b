"""The host of this project's own model; tests/test_patching.py and hf/test_patched_backbones.py have more of it."""

from __future__ import annotations

import pytest
import torch

import fastbert_kernels
from fastbert_hf import FastBertForSequenceClassification
from helpers.models import padded_batch, spread_model
from helpers.patched import assert_same_answers, run


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("speed", [0.2, 0.4, 0.5, 0.6, 0.8])
def test_labels_and_layers_of_500_inputs(count_ties, backend, speed):
    batch = padded_batch(torch.randint(1, 60, (500,)).tolist())
    unpatched, patched, decided = assert_same_answers(spread_model(), batch, speed, backend)
    count_ties((~decided).sum(), 500)
    assert decided.sum() >= 490 and unpatched.exit_layer.unique().numel() >= 2
    assert torch.equal(patched.logits.argmax(dim=1)[decided], unpatched.logits.argmax(dim=1)[decided])


def test_a_model_made_multi_label_afterwards_answers_itself():
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch([5, 9, 3])
    run(model, batch, speed=0.5)
    model.config.problem_type = "multi_label_classification"
    got, want = run(model, batch, speed=0.5), run(fastbert_kernels.unpatch(model), batch, speed=0.5)
    assert torch.equal(got.uncertainty, want.uncertainty) and torch.equal(got.exit_layer, want.exit_layer)


def test_layers_taken_out_without_a_word_to_the_configuration():
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch([5, 9, 3])
    run(model, batch)
    model.backbone.encoder.layer = model.layers[:3]
    message = r"has 3 layers and 4 exit heads, but its configuration names the exit layers \[1, 2, 3, 4\]"
    with pytest.warns(RuntimeWarning, match=message):
        got = run(model, batch)
    assert torch.equal(got.logits, run(fastbert_kernels.unpatch(model), batch).logits)
    with pytest.raises(ValueError, match=message):
        fastbert_kernels.patch(model)


def test_a_forward_of_the_users_own_is_not_passed_over():
    class Mine(FastBertForSequenceClassification):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    class Plain(FastBertForSequenceClassification):
        pass

    config = spread_model().config
    with pytest.raises(ValueError, match="Mine has a forward of its own, so it cannot be patched"):
        fastbert_kernels.patch(Mine(config))
    assert fastbert_kernels.is_patched(fastbert_kernels.patch(Plain(config)))

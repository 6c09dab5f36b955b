"""The host of this project's own model; tests/test_patching.py and hf/test_patched_backbones.py have more of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers.activations import ACT2FN

import fastbert_kernels
from fastbert_hf import ExitRule, FastBertForSequenceClassification
from fastbert_hf.exits.criteria import MULTI_LABEL
from fastbert_hf.exits.uncertainty import mean_binary_entropy
from fastbert_hf.outputs import same_predictions
from fastbert_kernels.engine.weights import GELU_BY_TANH
from fastbert_kernels.hosts.bert_layers import activation_name
from helpers.changed_models import derived_classes
from helpers.models import padded_batch, spread_model
from helpers.patched import assert_same_answers_at, only_the_fast_path, run


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_labels_and_layers_of_500_inputs(count_ties, backend):
    batch = padded_batch(torch.randint(1, 60, (500,)).tolist())
    speeds = (0.2, 0.4, 0.5, 0.6, 0.8)
    for unpatched, patched, decided in assert_same_answers_at(speeds, spread_model(), batch, backend):
        count_ties((~decided).sum(), 500)
        assert decided.sum() >= 490 and unpatched.exit_layer.unique().numel() >= 2
        assert torch.equal(patched.logits.argmax(dim=1)[decided], unpatched.logits.argmax(dim=1)[decided])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_labels_and_layers_of_a_multi_label_model(count_ties, backend):
    batch = padded_batch(torch.randint(1, 60, (200,)).tolist())
    model = spread_model()
    model.config.problem_type = MULTI_LABEL
    for unpatched, patched, decided in assert_same_answers_at((0.4, 0.6), model, batch, backend):
        count_ties((~decided).sum(), 200)
        assert decided.sum() >= 190 and unpatched.exit_layer.unique().numel() >= 2
        clear = decided & (unpatched.logits.abs() > 1e-3).all(dim=1)
        assert same_predictions(patched.logits, unpatched.logits, True)[clear].all()


def test_a_model_made_multi_label_afterwards():
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch([5, 9, 3])
    run(model, batch, speed=0.5)
    model.config.problem_type = MULTI_LABEL
    for speed in (None, 0.0, 0.5, ExitRule((1, 3), (0.3, 0.8), "binary_entropy")):
        with only_the_fast_path(model, model.layers):
            got = run(model, batch, speed=speed)
        want = run(fastbert_kernels.unpatch(copy.deepcopy(model)), batch, speed=speed)
        torch.testing.assert_close(got.uncertainty, mean_binary_entropy(got.logits), rtol=0, atol=1e-6)
        torch.testing.assert_close(got.uncertainty, want.uncertainty, rtol=0, atol=1e-5)
        assert torch.equal(got.exit_layer, want.exit_layer)
    with pytest.raises(ValueError, match="'entropy' is for models of the problem_type 'single_label_classification'"):
        run(model, batch, speed=ExitRule((1,), (0.5,)))


def test_auto_compares_the_probability_of_every_label(monkeypatch):
    monkeypatch.setenv("FASTBERT_PRODUCT_RATES", "float32=80 bfloat16=100 int8=80")
    model = spread_model()
    model.config.problem_type = MULTI_LABEL
    found = fastbert_kernels.patch_info(fastbert_kernels.patch(model, dtype="auto"))
    assert "scores of 32 probe texts differ by up to" in found["reason"]


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


def test_heads_that_the_configuration_puts_behind_other_layers():
    model, batch = spread_model(), padded_batch([5, 9, 3, 7])
    del model.heads[1]
    model.config.exit_layers = [2, 3, 4]
    run(fastbert_kernels.patch(model), batch, speed=1.0)
    model.config.exit_layers[:1] = [1]
    got = run(model, batch, speed=1.0)
    want = run(fastbert_kernels.unpatch(model), batch, speed=1.0)
    assert torch.equal(got.exit_layer, want.exit_layer) and 1 in want.exit_layer
    torch.testing.assert_close(got.logits, want.logits, rtol=1e-4, atol=1e-5)


def test_a_forward_of_the_users_own_is_not_passed_over():
    Mine, Plain = derived_classes(FastBertForSequenceClassification)
    config = spread_model().config
    with pytest.raises(ValueError, match="Mine has a forward of its own, so it cannot be patched"):
        fastbert_kernels.patch(Mine(config))
    assert fastbert_kernels.is_patched(fastbert_kernels.patch(Plain(config)))


def test_gelus_by_tanh_have_one_name():
    x = torch.linspace(-6, 6, 1001)
    for name in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh"):
        assert activation_name(ACT2FN[name]) == GELU_BY_TANH
        torch.testing.assert_close(ACT2FN[name](x), F.gelu(x, approximate="tanh"), rtol=0, atol=1e-6)
    assert activation_name(torch.nn.GELU("tanh")) == GELU_BY_TANH
    changed = ACT2FN["gelu_pytorch_tanh"]
    changed.act = F.gelu
    others = [changed, *(ACT2FN[name] for name in ("gelu", "gelu_10", "quick_gelu", "silu"))]
    assert GELU_BY_TANH not in map(activation_name, others)

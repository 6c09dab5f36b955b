"""patch(model) for every family of backbones, both kinds of heads, and layers without one: as the unpatched model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fastbert_kernels
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.hosts import fastbert_hf as host
from helpers.families import FAMILIES, HEADS, NUM_LAYERS, WITH_SEGMENTS, random_model
from helpers.models import padded_batch
from helpers.patched import (
    assert_change_is_noticed,
    assert_same_answers,
    assert_same_answers_at,
    record_asked_layers,
    run,
)

WIDTH = 32
# With every kind of head; the others with some.
COMMON = ("bert", "roberta", "xlm-roberta", "camembert", "electra-small", "distilbert")
SUBSET = [2, 4]
LENGTHS = [3, 130, 1, 64, 65, 2, 20]


@pytest.mark.parametrize("exit_layers", [None, SUBSET], ids=["all layers", "some layers"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", COMMON)
def test_patched_equals_unpatched(family, head, exit_layers):
    model, batch = random_model(family, exit_layers=exit_layers, **HEADS[head]), padded_batch(LENGTHS)
    assert isinstance(host.encoder(model, None, "auto").get(), CompiledEncoder)
    layers = set()
    for _, patched, _ in assert_same_answers_at((None, torch.linspace(0, 1, len(LENGTHS)), 1.0), model, batch):
        layers.update(patched.exit_layer.tolist())
    allowed = set(exit_layers or range(1, NUM_LAYERS + 1))
    assert {min(allowed), NUM_LAYERS} <= layers <= allowed


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_heads_without_activations(backend):
    model = random_model("bert", exit_layers=SUBSET, head_activation="identity")
    assert isinstance(host.encoder(model, None, backend).get(), LayerLoop)  # the compiled one knows tanh only
    layers = set()
    speeds = (None, 0.4, torch.linspace(0, 1, len(LENGTHS)), 1.0)
    for _, patched, _ in assert_same_answers_at(speeds, model, padded_batch(LENGTHS), backend):
        layers.update(patched.exit_layer.tolist())
    assert layers == set(SUBSET)
    with pytest.raises(ValueError, match=r"int8 needs the compiled CPU kernels, but .*(tanh|reference)"):
        fastbert_kernels.patch(model, backend=backend, dtype=torch.int8)


@pytest.mark.parametrize("head", ["attentive", "mean, 1 dense"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("backend", "activation"), [("reference", "gelu"), ("auto", "gelu_new")])
def test_the_loop_in_pytorch_calls(family, head, backend, activation):
    """With the model's own embeddings, and layers that the compiled encoder has not."""
    model = random_model(family, activation=activation, exit_layers=SUBSET, **HEADS[head])
    assert isinstance(host.encoder(model, None, backend).get(), LayerLoop)
    assert_same_answers_at((None, torch.linspace(0, 1, len(LENGTHS))), model, padded_batch(LENGTHS), backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "mean, 1 dense"),
        ("roberta", "attentive"),
        ("xlm-roberta", "max, 2 dense"),
        ("camembert", "first, 0 dense"),
        ("electra-small", "max, 1 dense"),
        ("distilbert", "first, 2 dense"),
        ("mpnet", "attentive"),
    ],
)
def test_low_precision_gives_the_same_labels(dtype, family, head):
    """Where the answer of the unpatched model is not near a tie."""
    model, batch = random_model(family, exit_layers=SUBSET, **HEADS[head]), padded_batch(LENGTHS * 4)
    want = run(model, batch).logits
    got = run(fastbert_kernels.patch(model, dtype=dtype), batch).logits
    largest, second = want.topk(2).values.unbind(1)
    clear = largest - second > 0.2 * want.abs().max()
    assert clear.sum() > len(want) / 4
    assert torch.equal(got.argmax(1)[clear], want.argmax(1)[clear])


@pytest.mark.parametrize("head", ["attentive", "first, 1 dense", "mean, 0 dense", "max, 2 dense"])
@pytest.mark.parametrize("lengths", [[17], LENGTHS])
@pytest.mark.parametrize(("speed", "layer"), [(1.0, SUBSET[0]), (0.0, NUM_LAYERS)])
def test_all_leave_at_the_first_head_or_none_before_the_last(head, lengths, speed, layer):
    model = random_model("bert", exit_layers=SUBSET, **HEADS[head])
    _, patched, _ = assert_same_answers(model, padded_batch(lengths), speed)
    assert patched.exit_layer.tolist() == [layer] * len(lengths)


@pytest.mark.parametrize(("speed", "asked"), [(None, [4]), (0.0, [4]), (1e-12, [2, 3, 4]), (1.0, [2])])
def test_no_head_is_asked_at_layers_without_one(monkeypatch, speed, asked):
    layers = record_asked_layers(monkeypatch)
    model = random_model("distilbert", exit_layers=[2, 3, 4], **HEADS["mean, 1 dense"])
    run(fastbert_kernels.patch(model, backend="reference"), padded_batch(LENGTHS), speed=speed)
    assert layers == asked


@pytest.mark.parametrize("head", ["attentive", "first, 1 dense", "mean, 0 dense", "max, 2 dense"])
@pytest.mark.parametrize("family", ["bert", "roberta", "electra-small", "distilbert"])
def test_a_nan_touches_one_sample_and_is_reported(family, head):
    model, batch = random_model(family, exit_layers=SUBSET, **HEADS[head]), padded_batch([4, 6, 5])
    batch["input_ids"][batch["input_ids"] == 96] = 1
    before = run(fastbert_kernels.patch(model), batch, speed=0.5)
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight[96] = torch.nan
    batch["input_ids"][1, 0 if head.startswith("first") else 2] = 96
    with pytest.warns(RuntimeWarning, match=r"\[1\]"):
        after = run(model, batch, speed=0.5)
    assert after.uncertainty[1].isnan() and after.exit_layer[1] == NUM_LAYERS
    torch.testing.assert_close(after.logits[[0, 2]], before.logits[[0, 2]], rtol=0, atol=1e-5)
    assert torch.equal(after.exit_layer[[0, 2]], before.exit_layer[[0, 2]])


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_of_the_longest_input_and_behind_padding_on_the_left(family):
    model = random_model(family, longest=70, **HEADS["mean, 1 dense"])
    assert model.config.max_position_embeddings == 70
    batch = padded_batch([70, 9, 3])
    assert_same_answers(model, batch, 0.5)
    left = {
        name: torch.stack([row.roll(70 - n) for row, n in zip(tensor, (70, 9, 3), strict=True)])
        for name, tensor in batch.items()
    }
    assert_same_answers(model, left, 0.5)
    fastbert_kernels.patch(model)
    want = run(model, batch, speed=0.5).logits
    torch.testing.assert_close(run(model, left, speed=0.5).logits, want, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="exceeds the backbone's 70 positions"):
        run(model, padded_batch([71]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_token_types(family, backend):
    """Segments where the backbone has them, else nothing but 0."""
    model, batch = random_model(family), padded_batch([5, 9, 3])
    plain = run(model, batch).logits
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    assert_same_answers(model, batch, 0.5, backend)
    batch["token_type_ids"][:, 1:] = 1
    if family in WITH_SEGMENTS:
        _, patched, _ = assert_same_answers(model, batch, None, backend)
        assert not torch.allclose(patched.logits, plain, atol=1e-2)
        return
    for candidate in (model, fastbert_kernels.patch(copy.deepcopy(model), backend=backend)):
        with pytest.raises(ValueError, match="does not tell segments apart"):
            run(candidate, batch)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(COMMON)))
@pytest.mark.parametrize("head", ["attentive", "max, 1 dense"])
def test_families_beside_the_common_ones(family, head):
    model = random_model(family, exit_layers=SUBSET, **HEADS[head])
    assert_same_answers_at((None, torch.linspace(0, 1, len(LENGTHS))), model, padded_batch(LENGTHS))


def test_padding_between_tokens_is_the_models_own_where_distances_count():
    model, batch = random_model("mpnet"), padded_batch(LENGTHS)
    batch["attention_mask"][1, 40:50] = 0
    want = run(model, batch, speed=0.5)
    with pytest.warns(RuntimeWarning, match="answers calls with padding between tokens, whose distance it changes"):
        got = run(fastbert_kernels.patch(model), batch, speed=0.5)
    assert torch.equal(got.logits, want.logits)


def test_changed_relative_positions_are_noticed():
    @torch.no_grad()
    def change(model):
        model.backbone.encoder.relative_attention_bias.weight.mul_(-2)

    assert_change_is_noticed(random_model("mpnet"), padded_batch(LENGTHS), change)


def test_changed_weights_of_a_pooled_head_are_noticed():
    @torch.no_grad()
    def change(model):
        model.heads[0].dense[0].bias.add_(0.5)
        model.heads[1].classifier.weight.neg_()
        model.layers[1].ffn.lin1.bias.add_(0.2)

    model = random_model("distilbert", exit_layers=SUBSET, **HEADS["max, 1 dense"])
    assert_change_is_noticed(model, padded_batch(LENGTHS), change)


def test_loss_and_all_exits_of_a_model_with_some_heads():
    model, batch = random_model("roberta", exit_layers=SUBSET, **HEADS["mean, 1 dense"]), padded_batch(LENGTHS)
    labels = torch.arange(len(LENGTHS)) % 3
    want, every = run(model, batch, labels=labels, speed=0.5), run(model, batch, output_all_exits=True)
    fastbert_kernels.patch(model)
    torch.testing.assert_close(run(model, batch, labels=labels, speed=0.5).loss, want.loss, rtol=1e-4, atol=1e-4)
    got = run(model, batch, output_all_exits=True)
    torch.testing.assert_close(got.all_logits, every.all_logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "head"), [("bert", "attentive"), ("distilbert", "mean, 1 dense")])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_multi_label_models(family, head, backend):
    settings = {"problem_type": "multi_label_classification", "exit_layers": SUBSET, **HEADS[head]}
    model, batch = random_model(family, **settings), padded_batch(LENGTHS)
    assert_same_answers_at((None, 0.0, torch.linspace(0, 1, len(LENGTHS)), 1.0), model, batch, backend)


@pytest.mark.parametrize("head", ["attentive", "first, 1 dense", "max, 0 dense"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("exit_layers", [None, SUBSET], ids=["all layers", "some layers"])
def test_models_with_one_output(head, backend, exit_layers):
    settings = {"problem_type": "regression", "num_labels": 1, "exit_layers": exit_layers}
    model, batch = random_model("bert", **settings, **HEADS[head]), padded_batch(LENGTHS * 3)
    layers = set()
    speeds = (None, 0.0, 2.0, torch.linspace(0, 8, len(LENGTHS) * 3), 1e6)
    for _, patched, _ in assert_same_answers_at(speeds, model, batch, backend):
        layers.update(patched.exit_layer.tolist())
    allowed = list(exit_layers or range(1, NUM_LAYERS + 1))
    assert allowed[0] not in layers  # nothing to compare with
    assert layers == set(allowed[1:])


def test_the_last_score_of_a_sample_does_not_depend_on_who_left_before():
    """The change that is reported for who stays is that since the head before, also where nobody else is left."""
    settings = {"problem_type": "regression", "num_labels": 1}
    model, batch = fastbert_kernels.patch(random_model("bert", **settings)), padded_batch([9, 20])
    together = run(model, batch, speed=torch.tensor([0.0, 1e6]))
    alone = run(model, {name: rows[:1] for name, rows in batch.items()}, speed=torch.tensor([0.0]))
    assert together.exit_layer.tolist() == [NUM_LAYERS, 2] and alone.uncertainty.isfinite().all()
    torch.testing.assert_close(together.uncertainty[:1], alone.uncertainty, rtol=0, atol=1e-4)


class ScaledLinear(nn.Linear):
    """Same parameters as Linear, another result."""

    def forward(self, x):
        return 2 * super().forward(x)


def add_adapter(model):
    model.layers[1].add_module("adapter", nn.Linear(WIDTH, WIDTH))


def replace_linear(model):
    model.layers[1].output.dense = ScaledLinear(2 * WIDTH, WIDTH)


def take_bias_away(model):
    model.layers[1].attention.self.key.bias = None


def change_one_eps(model):
    model.layers[1].output.LayerNorm.eps = 1e-5


def replace_head(model):
    model.heads[0] = nn.Linear(WIDTH, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_head, "exit heads of the kind Linear cannot be patched"),
        (add_adapter, r"unknown: \['adapter.bias', 'adapter.weight'\]"),
        (replace_linear, "output.dense is a ScaledLinear"),
        (take_bias_away, "parameters are not those of a BERT, DistilBERT or MPNet layer"),
        (change_one_eps, "different eps, 0.01 and 1e-05"),
    ],
)
def test_layers_and_heads_that_compute_something_else_are_refused(change, message):
    model = random_model("bert")
    change(model)
    with pytest.raises(ValueError, match=message):
        fastbert_kernels.patch(model)
    assert not fastbert_kernels.is_patched(model)

"""What a user did to the modules of a classifier of Transformers, before `patch` or after it, and what is refused."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    RobertaModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

import fastbert_kernels
from helpers.changed_models import derived_classes
from helpers.classifiers import assert_close, make_batch, make_model, run, run_fast
from helpers.families import LONGEST, make_backbone_config
from helpers.hooks import assert_hooks_are_heeded


def relu_pooler(model):
    model.bert.pooler.activation = nn.ReLU()


def wide_pooler(model):
    model.bert.pooler.activation = nn.Hardtanh(-0.01, 0.01)


def forward_of_the_backbone(model):
    own = model.bert.forward
    model.bert.forward = lambda *args, **kwargs: own(
        *args, **{**kwargs, "position_ids": torch.zeros(1, LONGEST).long()}
    )


def forward_of_the_pooler(model):
    model.bert.pooler.forward = lambda hidden: hidden[:, -1]


def adapter(model):
    inner = model.classifier
    model.classifier = nn.Sequential(inner, nn.Linear(2, 2))


def norm_for_the_dropout(model):
    model.dropout = nn.Sequential(nn.LayerNorm(32), nn.Dropout(0.1))
    nn.init.normal_(model.dropout[0].bias)
    model.eval()


def positions_from_behind(model):
    model.bert.embeddings.position_ids = torch.arange(LONGEST).flip(0)[None]


def a_layer_more(model):
    model.bert.encoder.layer.append(copy.deepcopy(model.bert.encoder.layer[0]))


def instance_forward(model):
    own = model.forward
    model.forward = lambda *args, **kwargs: SequenceClassifierOutput(logits=-own(*args, **kwargs).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (relu_pooler, None),
        (wide_pooler, "activation .*Hardtanh"),
        (forward_of_the_backbone, "bert has a forward of its own"),
        (forward_of_the_pooler, "bert.pooler has a forward of its own"),
        (adapter, "classifier is a Sequential, not a Linear"),
        (norm_for_the_dropout, "dropout is a Sequential, and the engine takes it for a dropout"),
        (positions_from_behind, "embeddings.position_ids does not count from 0"),
        (a_layer_more, None),
    ],
    ids=["relu", "hardtanh", "backbone", "pooler", "adapter", "norm", "positions", "a layer more"],
)
def test_what_a_user_did_to_the_modules_is_computed_or_refused(change, message):
    model, batch = make_model(), make_batch()
    plain = run(model, batch).logits
    patched = fastbert_kernels.patch(copy.deepcopy(model))
    run(patched, batch)
    torch.manual_seed(1)
    change(model)
    want = run(model, batch).logits
    assert not torch.allclose(want, plain, atol=1e-2)
    torch.manual_seed(1)
    change(patched)
    if message is None:
        assert_close(run(patched, batch).logits, want)
        assert_close(run_fast(fastbert_kernels.patch(model), batch).logits, want)
        return
    with pytest.warns(RuntimeWarning, match=f"changed after patch.*{message}"):
        assert_close(run(patched, batch).logits, want)
    with pytest.raises(ValueError, match=message):
        fastbert_kernels.patch(model)
    assert torch.equal(run(model, batch).logits, want)


def test_hooks_are_heeded():
    batch = make_batch()
    places = ("bert.embeddings", "bert.encoder.layer.1", "bert.pooler.dense", "bert.pooler", "dropout", "classifier")
    assert_hooks_are_heeded(make_model, lambda model: run(model, batch).logits, *places)


def test_a_forward_of_the_users_own_is_not_passed_over(monkeypatch):
    Mine, Plain = derived_classes(BertForSequenceClassification)
    config = make_model().config
    with pytest.raises(ValueError, match="Mine has a forward of its own, so it cannot be patched"):
        fastbert_kernels.patch(Mine(config))
    model, batch = Plain(config).eval(), make_batch()
    want = run(model, batch).logits
    assert_close(run_fast(fastbert_kernels.patch(model), batch).logits, want)
    fastbert_kernels.unpatch(model)
    instance_forward(model)
    with pytest.raises(ValueError, match="Plain has a forward of its own on the instance"):
        fastbert_kernels.patch(model)
    with monkeypatch.context() as patch:
        own = BertForSequenceClassification.forward
        tempered = functools.wraps(own)(lambda *args, **kwargs: own(*args, **kwargs))  # say, logits by a temperature
        patch.setattr(BertForSequenceClassification, "forward", tempered)
        with pytest.raises(ValueError, match="has a forward of its own, so it cannot be patched"):
            fastbert_kernels.patch(make_model())


def test_what_is_not_of_this_structure_is_refused():
    model = make_model()
    model.bert = RobertaModel(make_backbone_config("roberta"))
    with pytest.raises(ValueError, match="BertForSequenceClassification on a RobertaModel cannot be patched"):
        fastbert_kernels.patch(model)
    with pytest.raises(ValueError, match="decoder .is_decoder"):
        fastbert_kernels.patch(make_model(is_decoder=True))
    sizes = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    albert = AutoModelForSequenceClassification.from_config(AlbertConfig(embedding_size=8, **sizes))
    with pytest.raises(
        TypeError, match="AlbertForSequenceClassification has layers or embeddings of another kind.*BERT"
    ):
        fastbert_kernels.patch(albert)
    with pytest.raises(
        ValueError, match="looks like classifiers of Transformers.*word_embeddings renormalises its rows"
    ):
        model = BertForSequenceClassification(BertConfig(**sizes))
        model.bert.embeddings.word_embeddings.max_norm = 0.1
        fastbert_kernels.patch(model)

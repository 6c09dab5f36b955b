"""Classifiers of Transformers that become FastBERT models, and back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.adoption import adopt, export_classifier
from helpers.changed_models import derived_classes
from helpers.families import PADDING_ID, make_backbone_config, make_batch
from helpers.families import make_model as make_fastbert

MULTI = "multi_label_classification"
FAMILIES = {
    "bert": None,
    "ernie": MULTI,
    "roberta": "single_label_classification",
    "xlm-roberta": None,
    "camembert": MULTI,
    "data2vec-text": None,
    "electra-small": None,
    "electra-base": MULTI,
    "distilbert": None,
    "mpnet": None,
}


def make_classifier(family="bert", problem_type=None, num_labels=3):
    torch.manual_seed(0)
    names = {index: f"class {index}" for index in range(num_labels)}
    config = make_backbone_config(family, id2label=names, problem_type=problem_type)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
    return model


@torch.no_grad()
def logits_of(model, **options):
    ids, mask = make_batch()
    return model(input_ids=ids, attention_mask=mask, **options).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_full_depth_is_the_original_and_comes_back(family, tmp_path):
    original = make_classifier(family, FAMILIES[family])
    want = logits_of(original)
    original.save_pretrained(tmp_path / "plain")
    adopted = adopt(tmp_path / "plain")
    torch.testing.assert_close(logits_of(adopted), want, rtol=1e-5, atol=1e-5)
    assert adopted.config.id2label == original.config.id2label and not adopted.training
    assert adopted.config.problem_type == FAMILIES[family]
    assert len(adopted.heads) == adopted.config.num_hidden_layers
    adopted.save_pretrained(tmp_path / "fast")
    loaded = FastBertForSequenceClassification.from_pretrained(tmp_path / "fast")
    assert torch.equal(logits_of(loaded), logits_of(adopted))
    plain = export_classifier(loaded)
    plain.save_pretrained(tmp_path / "again")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again")
    assert type(again) is type(original) and torch.equal(logits_of(again), want)
    assert again.config.id2label == original.config.id2label
    state, other = original.state_dict(), again.state_dict()
    assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize("family", ["bert", "roberta", "data2vec-text", "mpnet"])
def test_a_literal_padding_token_in_a_text_counts_as_in_the_original(family):
    original, (ids, mask) = make_classifier(family), make_batch()
    ids[:, 3], ids[0, 5:7] = PADDING_ID, PADDING_ID
    adopted = adopt(original)
    with torch.no_grad():
        for given in ({"attention_mask": mask}, {}):
            want = original(input_ids=ids, **given).logits
            torch.testing.assert_close(adopted(input_ids=ids, **given).logits, want, rtol=1e-5, atol=1e-5)


def test_students_look_at_all_tokens_and_the_teacher_where_the_original_does(tmp_path):
    original = make_classifier()
    adopted = adopt(original)
    assert [head.pooling for head in adopted.heads] == ["mean"] * 3 + ["first"]
    adopted.save_pretrained(tmp_path)
    loaded = FastBertForSequenceClassification.from_pretrained(tmp_path)
    assert [head.pooling for head in loaded.heads] == ["mean"] * 3 + ["first"]
    torch.testing.assert_close(logits_of(loaded, speed=1.0), logits_of(adopted, speed=1.0), rtol=1e-5, atol=1e-5)
    assert {head.pooling for head in adopt(original, student_pooling="first").heads} == {"first"}
    with pytest.raises(ValueError, match="student_pooling must be one of"):
        adopt(original, student_pooling="last")


def test_a_model_in_memory_is_copied_in_its_precision():
    original = make_classifier().to(torch.bfloat16)
    adopted = adopt(original, exit_layers=[2, 4])
    assert adopted.dtype == torch.bfloat16 and len(adopted.heads) == 2
    with torch.no_grad():
        for parameter in adopted.parameters():
            parameter.zero_()
    assert logits_of(original).abs().max() > 0
    assert all(parameter.abs().max() > 0 for parameter in original.classifier.parameters())


@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16])
def test_weights_are_copied_without_rounding(default):
    original = make_classifier().double()
    with torch.no_grad():
        original.bert.pooler.dense.bias += 1e-9  # lost in float32
    try:
        torch.set_default_dtype(default)
        adopted = adopt(original)
        exported = export_classifier(adopted)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(adopted.teacher_classifier.dense[0].bias, original.bert.pooler.dense.bias)
    state = exported.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in original.state_dict().items())


@pytest.mark.parametrize("problem_type", [None, "regression", MULTI])
def test_a_model_with_one_output(problem_type, tmp_path):
    original = make_classifier("roberta", problem_type, num_labels=1)
    adopted = adopt(original)
    assert adopted.config.problem_type == "regression" and adopted.config.num_labels == 1
    torch.testing.assert_close(logits_of(adopted), logits_of(original), rtol=1e-5, atol=1e-5)
    adopted.save_pretrained(tmp_path)
    loaded = FastBertForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(loaded, speed=0.5), logits_of(adopted, speed=0.5), rtol=1e-5, atol=1e-5)
    exported = export_classifier(loaded)
    assert torch.equal(logits_of(exported), logits_of(original))
    # By which Transformers' pipeline takes the sigmoid or not.
    assert (exported.config.problem_type, exported.config.num_labels) == (problem_type, 1)


def several_scores():
    return make_classifier(problem_type="regression")


def other_activation():
    model = make_classifier()
    model.bert.pooler.activation = nn.Hardtanh()
    return model


def adapter():
    model = make_classifier()
    model.classifier = nn.Sequential(model.classifier)
    return model


def adapter_in_a_layer():
    model = make_classifier()
    model.bert.encoder.layer[0].output.extra = nn.Linear(2, 2)
    return model


def own_forward():
    Mine, _ = derived_classes(BertForSequenceClassification)
    return Mine(make_backbone_config("bert"))


def hook_in_a_layer():
    model = make_classifier()
    model.bert.encoder.layer[1].register_forward_hook(lambda module, args, output: 2 * output)
    return model


def activation_in_the_layers():
    model = make_classifier()
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = nn.ReLU()
    return model


def norm_for_the_dropout():
    model = make_classifier()
    model.dropout = nn.Sequential(nn.LayerNorm(32), model.dropout)
    return model


def forward_of_the_instance():
    model = make_classifier()
    own = model.forward
    model.forward = lambda *args, **kwargs: SequenceClassifierOutput(logits=-own(*args, **kwargs).logits)
    return model


def other_positions():
    model = make_classifier()
    model.bert.embeddings.position_ids = torch.arange(24).flip(0)[None]
    return model


def more_outputs():
    model = make_classifier()
    model.classifier = nn.Linear(32, 5)
    return model


def more_segments():
    model = make_classifier("roberta")
    model.roberta.embeddings.token_type_embeddings = nn.Embedding(2, 32)
    return model


def not_a_number():
    model = make_classifier()
    nn.init.constant_(model.bert.pooler.dense.bias, float("nan"))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_a_number, "its answers to random texts are not finite numbers; look for NaN"),
        (several_scores, "it gives 3 scores, and early exits are for one.*patch.model. runs it as it is"),
        (other_activation, "the activation of its head .bert.pooler.activation. is Hardtanh"),
        (adapter, "its classifier is no torch.nn.Linear"),
        (adapter_in_a_layer, "has or lacks encoder.layer.0.output.extra.*merge adapters"),
        (own_forward, "Mine cannot be adopted: its head is not known"),
        (hook_in_a_layer, "without its modules' own code it answers otherwise"),
        (activation_in_the_layers, "without its modules' own code it answers otherwise"),
        (norm_for_the_dropout, "without its modules' own code it answers otherwise"),
        (forward_of_the_instance, "without its modules' own code it answers otherwise"),
        (other_positions, "without its modules' own code it answers otherwise"),
        (more_outputs, "its classifier has 5 outputs, and its configuration names 3 classes"),
        (more_segments, "other sizes than embeddings.token_type_embeddings.weight .2, 32."),
    ],
)
def test_what_cannot_be_adopted_is_told_why(make, message):
    with pytest.raises(ValueError, match=message):
        adopt(make())


def test_the_padding_that_positions_count_from_is_that_of_the_modules():
    original = make_classifier("roberta")
    want = logits_of(original)
    original.config.pad_token_id = 0  # of a tokenizer, say; the embeddings were made with 1
    torch.testing.assert_close(logits_of(adopt(original)), want, rtol=1e-5, atol=1e-5)


def test_a_model_in_train_mode_stays_in_it():
    original = make_classifier().train()
    original.bert.encoder.layer[1].eval()
    adopt(original)
    assert original.training and not original.bert.encoder.layer[1].training and original.classifier.training


def test_a_checkpoint_with_more_than_the_class_knows(tmp_path):
    model = make_classifier("roberta")
    state = model.state_dict()
    unread = {"roberta.pooler.dense.weight": torch.ones(32, 32), "roberta.embeddings.position_ids": torch.ones(1, 3)}
    model.save_pretrained(tmp_path / "unread", state_dict=state | unread)
    assert torch.equal(logits_of(adopt(tmp_path / "unread")), logits_of(adopt(model)))
    model.save_pretrained(tmp_path / "more", state_dict=state | {"classifier.norm.weight": torch.ones(32)})
    with pytest.raises(ValueError, match="its weights have classifier.norm.weight, of which a RobertaForSequenceC"):
        adopt(tmp_path / "more")


def test_a_wrapper_is_no_model():
    with pytest.raises(TypeError, match="not a torch.nn.parallel.*DataParallel; of a wrapper, give the model in it"):
        adopt(nn.DataParallel(make_classifier()))


def test_folders_without_a_classifier(tmp_path):
    AutoModel.from_config(make_backbone_config("bert")).save_pretrained(tmp_path / "backbone")
    with pytest.raises(RuntimeError, match="has no trained classifier to adopt: it lacks .*fastbert train --backbone"):
        adopt(tmp_path / "backbone")
    make_fastbert("bert").save_pretrained(tmp_path / "fastbert")
    with pytest.raises(ValueError, match="is a FastBERT already; `fastbert distill`"):
        adopt(tmp_path / "fastbert")
    model = make_classifier()
    model.config.save_pretrained(tmp_path / "pickle")
    torch.save(model.state_dict() | {"code": nn.Linear(2, 2)}, tmp_path / "pickle" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="which can run code, so they are not loaded"):
        adopt(tmp_path / "pickle")


def test_other_heads_are_no_plain_classifier():
    with pytest.raises(ValueError, match="is not what a BertForSequenceClassification has"):
        export_classifier(make_fastbert("bert"))
    relu = make_fastbert("bert", head_type="pooled", head_hidden_size=32, head_activation="relu")
    with pytest.raises(ValueError, match="is not what a BertForSequenceClassification has"):
        export_classifier(relu)


def test_the_students_begin_as_the_teacher():
    adopted = adopt(make_classifier())
    states = [copy.deepcopy(head.state_dict()) for head in adopted.heads]
    assert all(torch.equal(states[0][name], state[name]) for state in states for name in states[0])
    assert isinstance(adopted.config.backbone_config, BertConfig)

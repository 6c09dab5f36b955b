"""Answers of the model in plain PyTorch, sample by sample against the rule in its own words."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.exits.uncertainty import mean_binary_entropy, normalised_entropy
from fastbert_hf.heads import AttentiveHead, PooledHead
from helpers.small_bert import NUM_LAYERS, SPEEDS, assert_same, make_batch, make_model


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


HEADS: list[dict[str, Any]] = [
    {"head_type": "attentive"},
    {"head_type": "pooled", "head_pooling": "first", "head_num_dense_layers": 0},
    {"head_type": "pooled", "head_pooling": "mean", "head_activation": "gelu"},
    {"head_type": "pooled", "head_pooling": "max", "head_num_dense_layers": 2, "head_activation": "relu"},
    {"head_type": "pooled", "student_pooling": "mean"},
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

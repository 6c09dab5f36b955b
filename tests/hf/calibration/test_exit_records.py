"""Exit records and their simulation against the model they are of, and what they know of it and of its texts."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import fastbert_kernels
from fastbert_hf.calibration import (
    Clock,
    ExitRecords,
    ExitRule,
    Objective,
    calibrate,
    certify,
    model_fingerprint,
    record_exits,
    simulate,
)
from fastbert_hf.calibration.simulation import uncertainties
from fastbert_hf.data import ClassificationData, TextData, TokenisedDataset, select_texts
from fastbert_hf.data.seen import SeenTexts
from fastbert_hf.flops import ModelShape, flops_speedup
from fastbert_hf.training import evaluate
from helpers.training import make_data, make_model, make_multi_label_data, make_tokenizer


@pytest.fixture(scope="module")
def model():
    model = make_model(num_layers=5, exit_layers=[1, 3, 4, 5]).eval()
    for head in model.heads:  # spreads the uncertainties over [0, 1]
        head.classifier.weight.data *= 25
    return model


def test_records_say_in_which_precision_the_model_answers(model, dataset):
    model, few = copy.deepcopy(model), TokenisedDataset(make_data(4), make_tokenizer(), 16)
    assert record_exits(model, few).precision == "float32"
    fastbert_kernels.patch(model, backend="cpu", dtype=torch.int8)
    assert record_exits(model, few).precision == "int8"
    fastbert_kernels.patch(model, backend="cpu", dtype=torch.int8, bfloat16_products=("output",))
    assert record_exits(model, few).precision == fastbert_kernels.patch_info(model)["precision"] != "int8"
    fastbert_kernels.patch(model, backend="cpu", dtype=torch.int8)
    handle = model.layers[0].register_forward_hook(lambda module, args, output: output)
    with pytest.warns(RuntimeWarning, match="own forward answers"):
        assert record_exits(model, few).precision == "float32"
    handle.remove()
    assert record_exits(model, few).precision == "int8"
    assert record_exits(fastbert_kernels.unpatch(model), few).precision == "float32"


def test_passages_are_not_recorded(model):
    passages = TokenisedDataset(make_data(9), make_tokenizer(), 6, stride=1)
    with pytest.raises(ValueError, match="some texts were divided into passages.*without stride"):
        record_exits(model, passages)
    with pytest.raises(ValueError, match="some texts were divided into passages.*leave stride out"):
        Clock.of(model, passages)


@pytest.fixture(scope="module")
def dataset():
    return TokenisedDataset(make_data(60), make_tokenizer(), 16)


@pytest.fixture(scope="module")
def recorded(model, dataset):
    return record_exits(model, dataset, batch_size=7)


def test_simulation_is_what_the_model_does(model, dataset, recorded) -> None:
    seen = set()
    for speed in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0):
        answers = evaluate(model, dataset, speed, batch_size=60)
        result = simulate(recorded, ExitRule.one_speed([1, 3, 4], speed))
        assert result.exit_layers.tolist() == answers.exit_layers.tolist()
        assert result.predictions.tolist() == answers.predictions.tolist()
        assert result.accuracy == answers.accuracy
        shape = ModelShape.from_config(model.config)
        assert result.flops_speedup == flops_speedup(shape, answers.exit_layers, np.array(dataset.lengths))
        assert result.mean_exit_layer == answers.exit_layers.double().mean().item()
        seen |= set(result.exit_layers.tolist())
    assert seen == {1, 3, 4, 5}


def test_records_hold_what_the_data_has(model, dataset, recorded) -> None:
    assert recorded.labels.tolist() == dataset.label_ids
    assert recorded.lengths.tolist() == dataset.lengths
    assert recorded.exit_layers == (1, 3, 4, 5)
    assert recorded.full_depth_accuracy == evaluate(model, dataset).accuracy
    told: list[tuple[str, int, int]] = []
    training = model.train()
    record_exits(training, dataset, 32, lambda *step: told.append(step))
    assert told == [("every exit of every text", 32, 60), ("every exit of every text", 60, 60)] and training.training
    model.eval()


def test_order_of_the_batches_does_not_show(model, dataset, recorded) -> None:
    assert dataset.lengths != sorted(dataset.lengths)
    in_order = [
        model(**{k: v for k, v in batch.items() if k != "labels"}, output_all_exits=True).all_logits
        for batch in dataset.batches(1)
    ]
    torch.testing.assert_close(recorded.logits, torch.cat(in_order).detach(), rtol=1e-4, atol=1e-4)


def test_records_survive_a_file(recorded, tmp_path) -> None:
    path = tmp_path / "exits.safetensors"
    recorded.save(path)
    loaded = ExitRecords.load(path)
    for name in ("logits", "labels", "lengths", "seen"):
        assert torch.equal(getattr(loaded, name), getattr(recorded, name))
    assert (loaded.shape, loaded.fingerprint) == (recorded.shape, recorded.fingerprint)
    assert [file.name for file in tmp_path.iterdir()] == ["exits.safetensors"]
    path.write_bytes(b"something else, long enough for a header")
    with pytest.raises(ValueError, match="holds no exit records"):
        ExitRecords.load(path)


def test_fingerprint_knows_weights_not_patches(model) -> None:
    before = model_fingerprint(model)
    fastbert_kernels.patch(model)
    assert model_fingerprint(model) == before
    fastbert_kernels.unpatch(model)
    weight = model.heads[0].classifier.weight.data
    weight[0, 0] += 1
    assert model_fingerprint(model) != before
    weight[0, 0] -= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exit_layers", [1, 2, 5]),
        ("head_activation", "identity"),
        ("head_num_attention_heads", 8),
        ("problem_type", "multi_label_classification"),
        ("backbone_config.layer_norm_eps", 1e-3),
        ("backbone_config.hidden_act", "relu"),
        ("backbone_config.num_attention_heads", 1),
        ("backbone_config.pad_token_id", 3),
    ],
)
def test_fingerprint_knows_what_the_configuration_says_of_answers(model, monkeypatch, field, value) -> None:
    before = model_fingerprint(model)
    *parts, name = field.split(".")
    config = getattr(model.config, *parts) if parts else model.config
    assert getattr(config, name) != value
    monkeypatch.setattr(config, name, value)
    assert model_fingerprint(model) != before


def test_fingerprint_does_not_know_what_answers_nothing(model, monkeypatch) -> None:
    before = model_fingerprint(model)
    monkeypatch.setattr(model.config, "id2label", {0: "no", 1: "yes"})
    monkeypatch.setattr(model.config, "trained_max_length", 9)
    monkeypatch.setattr(model.config.backbone_config, "hidden_dropout_prob", 0.7)
    assert model_fingerprint(model) == before


def test_samples_of_the_training_promise_nothing(model, monkeypatch) -> None:
    data, own = make_data(400), TextData(["the", "of"], None)
    monkeypatch.setattr(model, "seen_texts", SeenTexts().with_run(own, select_texts(data, [7, 7, 9])))
    records = record_exits(model, TokenisedDataset(data, make_tokenizer(), 16))
    seen = model.seen_texts.among(data).any  # make_data may have a text twice
    assert records.seen.tolist() == seen.tolist() and 2 <= seen.sum() < 400
    told = rf"{seen.sum()} of 400 samples were seen in training, .* or on records.unseen.. .{400 - seen.sum()} stay"
    for search in ("one_speed", "searched"):
        for objective in (Objective(max_drop=0.1), Objective(max_disagreement=0.1)):
            with pytest.raises(ValueError, match=told):
                calibrate(records, objective, search=search)
            assert calibrate(records.unseen(), objective, search=search).evidence.guarantee is not None
    assert calibrate(records, Objective(min_speedup=1.0)).evidence.guarantee is None
    with pytest.raises(ValueError, match="calibrate on samples of their own$"):
        certify(records.rows(records.seen), [ExitRule.full_depth()], 0.5, 0.5)


def test_what_cannot_be_recorded_is_refused(model) -> None:
    tokenizer = make_tokenizer()

    def record(data, its_model=model):
        return record_exits(its_model, TokenisedDataset(data, tokenizer, 16))

    with pytest.raises(ValueError, match=r"2 sample\(s\) have a label that the model does not know .*1, 3.*0..1"):
        record(ClassificationData(["the"] * 4, None, [0, 2, 1, 3], ["a", "b", "c", "d"]))
    with pytest.raises(ValueError, match="the data set is empty"):
        record(ClassificationData([], None, [], ["a", "b"]))


def test_texts_without_labels_are_recorded(model, recorded, tmp_path) -> None:
    texts = TextData(make_data(60).texts, None)
    records = record_exits(model, TokenisedDataset(texts, make_tokenizer(), 16))
    assert records.labels is None and records.full_depth_accuracy == 1.0 and len(records) == 60
    torch.testing.assert_close(records.logits, recorded.logits, rtol=1e-4, atol=1e-4)
    same = recorded.logits.argmax(dim=-1) == recorded.logits[:, -1:].argmax(dim=-1)
    assert records.right.tolist() == recorded.without_labels().right.tolist() == same.tolist() and not same.all()
    records.save(tmp_path / "exits")
    loaded = ExitRecords.load(tmp_path / "exits")
    assert loaded.labels is None and torch.equal(loaded.logits, records.logits)
    assert records.rows(torch.tensor([3, 5])).labels is None
    with pytest.raises(ValueError, match="the records have no labels"):
        _ = records.known_labels


def test_multi_label_answers_are_compared_class_by_class(tmp_path) -> None:
    its_model = make_model(problem_type="multi_label_classification").eval()
    for head in its_model.heads:
        head.classifier.weight.data *= 25
    dataset = TokenisedDataset(make_multi_label_data(), make_tokenizer(), 16)
    records = record_exits(its_model, dataset, batch_size=7)
    records.save(tmp_path / "exits")
    records = ExitRecords.load(tmp_path / "exits")
    assert records.multi_label and records.labels is None
    speed = float(np.quantile(uncertainties(records, "binary_entropy")[:, 0], 0.55))
    result = simulate(records, ExitRule.one_speed(records.student_layers, speed, "binary_entropy"))
    answers = evaluate(its_model, dataset, speed, batch_size=60)
    assert result.exit_layers.tolist() == answers.exit_layers.tolist() and len(set(result.exit_layers.tolist())) > 1
    at_exit = torch.from_numpy(result.predictions)
    full_depth = records.logits[:, -1] > 0
    assert result.accuracy == (at_exit == full_depth).all(dim=1).double().mean().item() < 1

"""Calibrated settings: saved beside the model, loaded with it, used where a call names no Speed."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    pipeline,
)

from fastbert_hf import FastBertForSequenceClassification, predict
from fastbert_hf.calibration import ExitRule, Objective, calibrate, record_exits, simulate
from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.exits.calibrated_setting import SETTING_FILE, CalibratedSetting
from fastbert_hf.exits.fingerprint import model_fingerprint
from fastbert_hf.exits.uncertainty import normalised_entropy
from fastbert_hf.training import distill, evaluate
from helpers.training import QUICK_DISTILLATION, make_data, make_tokenizer


def make_data_of_four() -> ClassificationData:
    """300 sentences of four classes."""
    return ClassificationData(make_data(300).texts, None, [i % 4 for i in range(300)], list("0123"))


@pytest.fixture(scope="module")
def calibrated(model, tmp_path_factory):
    """A folder with a model, its tokenizer and its calibrated setting."""
    folder = tmp_path_factory.mktemp("calibrated")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    records = record_exits(model, TokenisedDataset(make_data_of_four(), tokenizer, 16))
    setting = calibrate(records, Objective(min_speedup=1.3), criterion="entropy")
    setting.save(folder)
    return folder, records, setting


def test_setting_is_the_default_of_the_loaded_model(calibrated, batch, recwarn) -> None:
    folder, _, setting = calibrated
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert not recwarn.list and loaded.calibrated_setting == setting
    by_default, by_rule, full = loaded(**batch), loaded(**batch, speed=setting.rule), loaded(**batch, speed=0)
    assert torch.equal(by_default.exit_layer, by_rule.exit_layer) and torch.equal(by_default.logits, by_rule.logits)
    assert (full.exit_layer == 5).all() and not torch.equal(full.exit_layer, by_default.exit_layer)
    assert (loaded.train()(**batch).exit_layer == 5).all()


def test_setting_is_used_by_predict_and_pipeline(calibrated) -> None:
    folder, records, setting = calibrated
    loaded, tokenizer = FastBertForSequenceClassification.from_pretrained(folder), make_tokenizer()
    texts = make_data(300).texts
    expected = simulate(records, setting.rule)
    # In other batches than those of the records, rounding may move what is at its Speed to the last digit.
    heads = [records.exit_layers.index(layer) for layer in setting.rule.layers]
    speeds = torch.tensor(setting.rule.speeds)
    far = ((normalised_entropy(records.logits[:, heads]) - speeds).abs() > 1e-5).all(dim=1)
    assert setting.rule.criterion == "entropy" and far.sum() > 250
    found = predict(loaded, tokenizer, texts).exit_layer
    assert found[far].tolist() == expected.exit_layers[far.numpy()].tolist()
    answers = pipeline("text-classification", model=loaded, tokenizer=tokenizer)(texts[:40])
    found = torch.tensor([int(answer["label"]) for answer in answers])
    assert found[far[:40]].tolist() == expected.predictions[:40][far[:40].numpy()].tolist()


def test_speedup_is_the_linear_knob(calibrated, batch) -> None:
    folder, records, setting = calibrated
    loaded = FastBertForSequenceClassification.from_pretrained(folder)
    for wanted in (1.1, 1.3):
        speed = setting.speed_for_speedup(wanted)
        assert torch.equal(loaded(**batch, speedup=wanted).exit_layer, loaded(**batch, speed=speed).exit_layer)
        reached = simulate(records, ExitRule.one_speed((1, 3, 4), speed)).flops_speedup
        assert reached == pytest.approx(wanted, rel=0.1)
    dataset = TokenisedDataset(make_data_of_four(), make_tokenizer(), 16)
    assert (evaluate(loaded, dataset).exit_layers == 5).all(), "None is full depth there"
    assert predict(loaded, make_tokenizer(), make_data(5).texts, speedup=1.3).exit_layer.shape == (5,)


def test_speedup_that_is_not_available_is_refused(model, calibrated, batch) -> None:
    with pytest.raises(ValueError, match="calibrate this one first"):
        model(**batch, speedup=2.0)
    loaded = FastBertForSequenceClassification.from_pretrained(calibrated[0])
    with pytest.raises(ValueError, match="no Speed gives a FLOPs speed-up of 50"):
        loaded(**batch, speedup=50)
    with pytest.raises(ValueError, match="either speed or speedup"):
        loaded(**batch, speed=0.5, speedup=2.0)
    with pytest.raises(ValueError, match="no Speed gives"):
        predict(loaded, make_tokenizer(), ["good"], speedup=0.1)


def test_saving_the_model_saves_its_setting(calibrated, tmp_path) -> None:
    folder, _, setting = calibrated
    FastBertForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path)
    assert (tmp_path / SETTING_FILE).read_text() == (folder / SETTING_FILE).read_text()
    assert FastBertForSequenceClassification.from_pretrained(tmp_path).calibrated_setting == setting


def test_setting_for_other_weights_is_left_out_with_a_warning(calibrated, tmp_path, batch) -> None:
    folder, _, _ = calibrated
    other = FastBertForSequenceClassification.from_pretrained(folder)
    other.heads[0].classifier.bias.data[0] += 1
    other.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="made for other weights"):
        loaded = FastBertForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.calibrated_setting is None and (loaded(**batch).exit_layer == 5).all()
    with pytest.warns(UserWarning, match="another dtype"):
        FastBertForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)


def test_training_drops_the_setting(calibrated) -> None:
    loaded = FastBertForSequenceClassification.from_pretrained(calibrated[0])
    distill(loaded, make_tokenizer(), make_data_of_four(), replace(QUICK_DISTILLATION, epochs=1))
    assert loaded.calibrated_setting is None


def test_broken_setting_is_an_error_with_its_path(calibrated, tmp_path) -> None:
    FastBertForSequenceClassification.from_pretrained(calibrated[0]).save_pretrained(tmp_path)
    (tmp_path / SETTING_FILE).write_text("{")
    with pytest.raises(ValueError, match=f"{SETTING_FILE} is not a calibration that can be read"):
        FastBertForSequenceClassification.from_pretrained(tmp_path)


def written_before(rule: dict[str, Any], number: int, fingerprint: str = "f" * 64) -> dict[str, Any]:
    """A setting as versions that wrote formats 1 and 2 had it."""
    content = {
        "format": number,
        "rule": rule,
        "objective": {"max_drop": 0.01, "min_speedup": None, "max_latency_ms": None},
        "figures": {
            "full_depth_accuracy": 0.9,
            "accuracy": 0.895,
            "accuracy_interval": [0.88, 0.91],
            "drop": 0.005,
            "flops_speedup": 1.75,
            "flops_speedup_interval": [1.7, 1.8],
            "mean_exit_layer": 2.5,
        },
        "evidence": {
            "samples": 500,
            "samples_for_choosing": 500,
            "confidence": 0.95,
            "method": "searched",
            "guarantee": "at most 0.01",
            "p_value": 0.03,
        },
        "fingerprint": fingerprint,
        "curve": {"speeds": [0.0, 0.5, 1.0], "accuracy": [0.9, 0.89, 0.7], "flops_speedup": [0.9, 1.5, 4.0]},
    }
    if number == 1:
        del content["objective"]["max_latency_ms"]
        return content
    return {**content, "latency": None, "max_length": 64}


OLD_RULES = {
    "entropy": ((1, 3), (0.25, 0.5), 2, 1, 0),
    "confidence": ((1,), (0.125,), 2, 1, 0),
    "top_k_entropy": ((1, 3), (0.25, 0.5), 5, 1, 5),
    "patience": ((1, 3, 4), (), 2, 3, 3),
}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("criterion", OLD_RULES)
def test_settings_of_before_are_read_and_written_anew(tmp_path, criterion, number) -> None:
    layers, speeds, top_k, patience, parameter = OLD_RULES[criterion]
    rule = {"layers": layers, "speeds": speeds, "criterion": criterion, "top_k": top_k, "patience": patience}
    (tmp_path / SETTING_FILE).write_text(json.dumps(written_before(rule, number)))
    setting = CalibratedSetting.load(tmp_path)
    assert setting is not None and setting.rule == ExitRule(layers, speeds, criterion, parameter)
    assert setting.speed_for_speedup(1.5) == 0.5 and setting.figures.accuracy_interval == (0.88, 0.91)
    assert setting.max_length == (64 if number == 2 else None)
    setting.save(tmp_path)
    written = json.loads((tmp_path / SETTING_FILE).read_text())
    assert written["format"] == 7
    assert written["rule"].keys() == {"layers", "speeds", "criterion", "parameter"}
    assert CalibratedSetting.load(tmp_path) == setting


def fingerprint_of_before(model: FastBertForSequenceClassification) -> str:
    """Return that of exit layers, parameters and buffers, without the configuration."""
    digest = hashlib.sha256(str(list(model.config.exit_layers)).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode() + value.numpy().tobytes())
    return digest.hexdigest()


def test_a_trained_folder_of_before_is_loaded_with_its_setting(model, batch, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    rule = {"layers": [1, 4], "speeds": [0.4, 0.6], "criterion": "top_k_entropy", "top_k": 3, "patience": 1}
    content = written_before(rule, 2, fingerprint_of_before(model))
    (tmp_path / SETTING_FILE).write_text(json.dumps(content))
    loaded = FastBertForSequenceClassification.from_pretrained(tmp_path)
    expected = model(**batch, speed=ExitRule((1, 4), (0.4, 0.6), "top_k_entropy", 3))
    assert torch.equal(loaded(**batch).exit_layer, expected.exit_layer) and expected.exit_layer.unique().numel() > 1
    assert loaded.calibrated_setting.fingerprint == model_fingerprint(model)
    with torch.no_grad():
        loaded.heads[0].classifier.bias += 1
    loaded.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="made for other weights"):
        assert FastBertForSequenceClassification.from_pretrained(tmp_path).calibrated_setting is None


@pytest.mark.parametrize("number", [3, 4])
def test_a_setting_of_before_says_nothing_of_precision_or_disagreement(tmp_path, number) -> None:
    rule = {"layers": (1, 3), "speeds": (0.25, 0.5), "criterion": "entropy", "parameter": 0}
    content = written_before(rule, number) | ({"precision": "int8"} if number == 4 else {})
    (tmp_path / SETTING_FILE).write_text(json.dumps(content))
    setting = CalibratedSetting.load(tmp_path)
    assert setting is not None and setting.max_length == 64
    assert setting.precision == ("int8" if number == 4 else None)
    assert setting.objective.max_disagreement is setting.figures.disagreement is setting.figures.exit_counts is None


@pytest.mark.parametrize("change", [{"format": 8}, {"format": None}, {"rule": {"layers": [1], "speeds": [0.5]}}])
def test_settings_of_no_known_format_are_errors(tmp_path, change) -> None:
    rule = {"layers": [1], "speeds": [0.5], "criterion": "entropy", "top_k": 2, "patience": 1}
    (tmp_path / SETTING_FILE).write_text(json.dumps({**written_before(rule, 2), **change}))
    with pytest.raises(ValueError, match="is not a calibration that can be read"):
        CalibratedSetting.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"figures": {"accuracy": "0.9"}}, "accuracy is '0.9', not of type float"),
        ({"figures": {"drop": math.nan}}, "drop is nan, not finite"),
        ({"figures": {"accuracy_interval": [0.1]}}, "accuracy_interval is"),
        ({"figures": {"accuracy": True}}, "not of type float"),
        ({"figures": {"exit_counts": [3, -1]}}, "must not be below 0"),
        ({"figures": {"class_losses": [1]}}, "must be of the same classes"),
        ({"objective": {"max_disagreement": 0.1}}, "exactly one of"),
        ({"curve": {"speeds": [], "accuracy": [], "flops_speedup": []}}, "at each of its points"),
        ({"curve": {"speeds": [0.5, 0.1], "accuracy": [1, 1], "flops_speedup": [1, 2]}}, "speeds must not fall"),
        ({"curve": {"speeds": [0.1], "accuracy": [1], "flops_speedup": [-1]}}, "above 0"),
        ({"curve": []}, "not an object"),
        ({"rule": {"criterion": "top_k_entropy", "parameter": 10**30}}, "at most 2147483647"),
        ({"rule": {"layers": "12"}}, "layers is '12'"),
        ({"evidence": {"samples": 1.5}}, "samples is 1.5, not of type int"),
        ({"fingerprint": 7}, "fingerprint is 7"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_loaded_is_not_believed(calibrated, tmp_path, change, message) -> None:
    content = json.loads((calibrated[0] / SETTING_FILE).read_text())
    for name, value in change.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    (tmp_path / SETTING_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{SETTING_FILE} is not a calibration that can be read.*{message}"):
        CalibratedSetting.load(tmp_path)


def test_a_folder_in_the_place_of_the_setting(calibrated, tmp_path) -> None:
    shutil.copytree(calibrated[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / SETTING_FILE).unlink()
    (tmp_path / SETTING_FILE).mkdir()
    with pytest.raises(ValueError, match="is a folder, not a calibration"):
        FastBertForSequenceClassification.from_pretrained(tmp_path)

"""`fastbert compare`: two settings and two models side by side."""

from __future__ import annotations

import json

import pytest

from fastbert_hf import FastBertForSequenceClassification
from helpers.cli import assert_complaint, invoke, succeed


def test_two_settings_of_one_model(trained, data):
    call = ("compare", trained / "model", trained / "model", "--data", data / "dev.tsv", "--at-b", 0.8)
    found = json.loads(succeed(*call, "--json").stdout)
    evaluated = json.loads(
        succeed("evaluate", trained / "model", "--data", data / "dev.tsv", "--speed", 0.8, "--json").stdout
    )["rows"]
    for mine, theirs in zip(found["rows"], evaluated, strict=True):
        assert {**mine, "setting": theirs["setting"]} == theirs
    assert [row["setting"] for row in found["rows"]] == ["A, full depth", "B, Speed 0.8"]
    difference = found["difference"]
    assert difference["accuracy"] == pytest.approx(evaluated[1]["accuracy"] - evaluated[0]["accuracy"])
    assert difference["macro_f1"] == pytest.approx(evaluated[1]["macro_f1"] - evaluated[0]["macro_f1"])
    told = succeed(*call)
    assert "B less A on 21 texts, with intervals at 0.95 confidence: accuracy " in told.stdout
    assert "note: 21 of 21 texts were seen in training" in told.stderr


def test_models_that_number_their_classes_otherwise(trained, data, tmp_path):
    model = FastBertForSequenceClassification.from_pretrained(trained / "model")
    other = tmp_path / "other"
    for file in (trained / "model").iterdir():
        other.mkdir(exist_ok=True)
        (other / file.name).write_bytes(file.read_bytes())
    for head in model.heads:  # the same answers under other numbers
        for parameter in head.classifier.parameters():
            parameter.data = parameter.data.flip(0)
    model.config.id2label = {0: "yes", 1: "no"}
    model.save_pretrained(other)
    found = json.loads(succeed("compare", trained / "model", other, "--data", data / "dev.tsv", "--json").stdout)
    assert found["difference"]["accuracy"] == found["difference"]["other_answers"] == 0
    model.config.id2label = {0: "yes", 1: "perhaps"}
    model.save_pretrained(other)
    refused = invoke("compare", trained / "model", other, "--data", data / "dev.tsv")
    assert refused.exit_code == 2 and "other: the model does not know the class 'no'" in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--at-a", "fast"], "fast is no setting; give a Speed from 0 to 1, full (depth) or calibrated"),
        (["--at-b", 2], "2 is no setting"),
    ],
)
def test_complaints_are_one_line(trained, data, options, message):
    call = ("compare", trained / "model", trained / "model", "--data", data / "dev.tsv")
    assert_complaint(invoke(*call, *options), "compare", message)


def test_a_model_that_is_not_calibrated(trained, data):
    call = ("compare", trained / "model", trained / "model", "--data", data / "dev.tsv", "--at-a", "calibrated")
    refused = invoke(*call)
    assert refused.exit_code == 2 and "not calibrated; run fastbert calibrate" in refused.stderr.splitlines()[-1]

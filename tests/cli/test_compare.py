"""`fastbert compare`: two settings and two models side by side."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from helpers.cli import assert_complaint, invoke, succeed
from helpers.small_bert import make_backbone_config


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


def test_speed_ups_of_models_of_other_sizes_are_over_one_base(trained, data, tmp_path):
    shallow = tmp_path / "shallow"
    sizes = {"vocab_size": 15, "num_attention_heads": 2, "max_position_embeddings": 32}
    config = FastBertConfig(make_backbone_config(num_hidden_layers=1, **sizes), id2label={0: "no", 1: "yes"})
    FastBertForSequenceClassification(config).save_pretrained(shallow)
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    tokenizer.save_pretrained(shallow)
    call = ("compare", trained / "model", shallow, "--data", data / "dev.tsv")
    deep, flat = json.loads(succeed(*call, "--json").stdout)["rows"]

    def flops(tokens, layers, hidden=32, inner=64, head=128):
        """As in table 1 of the paper: 2 FLOPs for a multiply-add of a Linear layer, of the head all but its last."""
        layer = tokens * (4 * hidden**2 + 2 * hidden * inner)
        return 2 * (layers * layer + tokens * (hidden * head + 4 * head**2) + head**2)

    texts = [line.split("\t")[1] for line in (data / "dev.tsv").read_text().splitlines()[1:]]
    tokens = [len(tokenizer(text, truncation=True, max_length=16)["input_ids"]) for text in texts]
    expected = sum(flops(n, 3) for n in tokens) / sum(flops(n, 1) for n in tokens)
    assert deep["flops_speedup"] == 1 and flat["mean_exit_layer"] == 1
    assert flat["flops_speedup"] == pytest.approx(expected) and expected > 1.05
    turned = succeed("compare", shallow, trained / "model", "--data", data / "dev.tsv")
    assert "over A at full depth" in turned.stdout
    assert f"{1 / expected:.2f}x" in turned.stdout

"""`fastbert distill`: students learn, the teacher stays, and its complaints."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from fastbert_hf import FastBertForSequenceClassification, predict
from helpers.cli import (
    QUICK_DISTIL,
    assert_complaint,
    assert_same_weights,
    interrupt,
    invoke,
    succeed,
    weights,
)

QUICK = [*QUICK_DISTIL, "--max-length", 16, "--precision", "fp32"]


def changed_parameters(before, after):
    first, second = weights(before), weights(after)
    return {name for name in first if not torch.equal(first[name], second[name])}


def test_texts_alone_teach_the_students_and_leave_the_teacher(trained, data, tmp_path):
    out = tmp_path / "out"
    texts = ["--texts", data / "texts.txt", "--texts", data / "train.tsv"]
    result = succeed("distill", trained / "model", *texts, "--dev", data / "dev.tsv", "--out", out, *QUICK)
    changed = changed_parameters(trained, out)
    assert any(name.startswith("heads.0.") for name in changed) and any(name.startswith("heads.1.") for name in changed)
    assert all(name.startswith(("heads.0.", "heads.1.")) for name in changed)
    assert {path.name for path in out.iterdir()} == {"distil", "model", "results.json", "config.yaml"}
    results = json.loads((out / "results.json").read_text())
    assert results["data"]["texts"] == 60 and len(results["training"]["distil"]["losses"]) == 2
    full_depth = json.loads((trained / "results.json").read_text())["dev"][0]
    assert results["dev"][0] == full_depth and [row["speed"] for row in results["dev"][1:]] == [0.1, 0.3, 0.5, 0.8]
    assert ["texts", "60", "21"] in map(str.split, result.stdout.splitlines()) and "full depth" in result.stdout

    again = tmp_path / "again"
    succeed("distill", trained / "model", "--config", out / "config.yaml", "--out", again)
    assert_same_weights(out, again)


def test_exit_zero_is_added_and_trained_anew(trained, data, tmp_path):
    out, texts = tmp_path / "out", ["--texts", data / "texts.txt", "--texts", data / "train.tsv"]
    options = ["--exit-zero", "--dev", data / "dev.tsv", "--out", out]
    result = succeed("distill", trained / "model", *texts, *options, *QUICK)
    assert "of 262,144 buckets from 60 texts" in result.stdout
    model = FastBertForSequenceClassification.from_pretrained(out / "model")
    assert model.config.exit_layers == [0, 1, 2, 3] and bool(model.exit_zero.table.any())
    answers = tmp_path / "answers.tsv"
    told = succeed("predict", out / "model", data / "texts.txt", "--speed", 1, "--out", answers)
    assert "mean exit layer 0.00 of 3" in told.stderr
    assert {line.split("\t")[3] for line in answers.read_text().splitlines()[1:]} == {"0"}
    again = tmp_path / "again"
    assert "exit zero:" in succeed("distill", out / "model", *texts[:2], "--out", again, *QUICK).stdout
    assert "heads.0.table" in changed_parameters(out, again)


def test_students_become_like_their_teacher(trained, data, tmp_path):
    out = tmp_path / "out"
    options = ["--texts", data / "train.tsv", "--distil-epochs", 20, "--temperature", 2]
    succeed("distill", trained / "model", *options, *QUICK[2:], "--out", out)

    def agreement(folder):
        model = FastBertForSequenceClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = [line.split("\t")[1] for line in (data / "dev.tsv").read_text().splitlines()[1:]]
        first, last = (predict(model, tokenizer, texts, speed=speed) for speed in (1.0, None))
        assert set(first.exit_layer.tolist()) == {1}
        return (first.probabilities - last.probabilities).abs().mean()

    assert agreement(out / "model") < agreement(trained / "model")


def test_labels_are_read_for_mixed_targets(trained, data, tmp_path):
    out = tmp_path / "out"
    mixed = ["--targets", "mixed", "--hard-weight", 0.3, "--cache"]
    succeed("distill", trained / "model", "--texts", data / "train.tsv", *mixed, *QUICK, "--out", out)
    assert yaml.safe_load((out / "config.yaml").read_text())["distil"]["hard_weight"] == 0.3
    assert changed_parameters(trained, out)


def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(trained, data, tmp_path, monkeypatch):
    options = ["distill", trained / "model", "--texts", data / "train.tsv", *QUICK]
    succeed(*options, "--out", tmp_path / "whole")
    again = interrupt(monkeypatch, 7, *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()
    succeed(*again)
    assert_same_weights(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no texts to distill from; name a file with --texts"),
        (["--texts", "{data}/absent.txt"], "absent.txt: cannot be read"),
        (["--texts", "{data}/texts.txt", "--texts", "{data}/pairs.tsv"], "cannot join pairs of texts and single texts"),
        (["--texts", "{data}/texts.txt", "--targets", "hard"], "texts.txt: unknown ending '.txt'"),
        (["--texts", "{data}/train.tsv", "--texts", "{data}/dev.tsv", "--targets", "hard"], "give --texts once"),
        (["--texts", "{data}/texts.txt", "--dev", "{data}/several.tsv"], "no column label among: labels, text"),
        (["--texts", "{data}/texts.txt", "--max-length", "64"], "max_length is 64, but the model ends at 32 tokens"),
        (["--texts", "{many}", "--cache", "--cache-limit-gb", "1e-9"], "step 2: the frozen hidden states"),
        (["--texts", "{data}/texts.txt", "--hard-weight", "2"], "--hard-weight must be at least 0 and at most 1"),
    ],
)
def test_complaints_are_one_line(trained, data, tmp_path, options, message):
    many = tmp_path / "many.txt"  # of fewer a note says that they are
    many.write_text("good film\n" * 300)
    words = [option.format(data=data, many=many) for option in options]
    result = invoke("distill", trained / "model", "--max-length", 16, *words, "--out", tmp_path / "out")
    assert_complaint(result, "distill", message)


def test_a_folder_without_a_model(data, tmp_path):
    for folder in (tmp_path / "absent", data):
        result = invoke("distill", folder, "--texts", data / "texts.txt", "--out", tmp_path / "out")
        assert_complaint(result, "distill", "name a folder into which a FastBERT and its tokenizer were saved")

"""`fastbert adopt` and `fastbert export`: a classifier becomes a FastBERT with its own answers, and one again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
)

from fastbert_hf import FastBertForSequenceClassification
from helpers.cli import QUICK_DISTIL, assert_complaint, interrupt, invoke, succeed, text_of

QUICK = [*QUICK_DISTIL, "--max-length", 16, "--precision", "fp32"]
NAMES = {0: "no", 1: "yes", 2: "perhaps"}


@pytest.fixture
def classifier(tiny_backbone, tmp_path):
    folder = tmp_path / "classifier"
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(tiny_backbone, id2label=NAMES)
    with torch.no_grad():
        model.classifier.weight.normal_(0, 1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(folder)
    return folder


@torch.no_grad()
def logits_of(model, tokenizer):
    batch = tokenizer(["good film", "a very very bad book", "not fine"], padding=True, return_tensors="pt")
    return model.eval()(batch["input_ids"], batch["attention_mask"]).logits


def test_answers_at_full_depth_stay_and_the_classifier_comes_back(classifier, data, tmp_path):
    fast, plain = tmp_path / "fast", tmp_path / "plain"
    result = succeed("adopt", classifier, "--texts", data / "texts.txt", "--out", fast, *QUICK)
    assert ["texts", "20"] in map(str.split, result.stdout.splitlines())
    assert "note: 20 texts are little for students to learn from, which need no labels: give all" in result.stderr
    assert "unknown" not in result.stderr
    model = FastBertForSequenceClassification.from_pretrained(fast / "model")
    tokenizer = AutoTokenizer.from_pretrained(fast / "model")
    original = AutoModelForSequenceClassification.from_pretrained(classifier)
    want = logits_of(original, tokenizer)
    torch.testing.assert_close(logits_of(model, tokenizer), want, rtol=1e-5, atol=1e-5)
    assert model.config.id2label == NAMES
    for student in model.student_classifiers:  # which began as copies
        assert not torch.equal(student.classifier.weight, original.classifier.weight)
    losses = json.loads((fast / "results.json").read_text())["training"]["distil"]["losses"]
    assert losses[-1] < losses[0]

    assert "a BertForSequenceClassification" in succeed("export", fast / "model", "--to", plain).stdout
    again = AutoModelForSequenceClassification.from_pretrained(plain)
    assert torch.equal(logits_of(again, AutoTokenizer.from_pretrained(plain)), want)
    assert_complaint(invoke("export", fast / "model", "--to", plain), "export", "exists; choose another name")


def test_texts_in_another_language_are_told(classifier, tmp_path):
    (tmp_path / "texts.txt").write_text("这部电影很好\n太差了\n还可以\n", encoding="utf-8")
    result = succeed("adopt", classifier, "--texts", tmp_path / "texts.txt", "--out", tmp_path / "fast", *QUICK)
    assert "of the tokens are unknown to the model's tokenizer: are the texts in another language" in result.stderr


def test_an_interrupted_run_does_not_go_on_with_another_classifier(classifier, data, tmp_path, monkeypatch):
    """The checkpoint has the weights of the one before, whose answers full depth would give."""
    options = ["--texts", data / "texts.txt", "--out", tmp_path / "out", *QUICK]
    again = interrupt(monkeypatch, 3, "adopt", classifier, *options)
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    with torch.no_grad():
        model.classifier.weight.neg_()
    model.save_pretrained(classifier)
    resumed = invoke(*again)
    assert resumed.exit_code == 2 and not (tmp_path / "out" / "model").exists()
    assert "began with other weights of the model, which have changed since" in resumed.stderr


def test_complaints(classifier, tiny_backbone, trained, data, tmp_path):
    texts = ["--texts", data / "texts.txt", "--out", tmp_path / "out", *QUICK]
    assert_complaint(invoke("adopt", tiny_backbone, *texts), "adopt", "has no trained classifier to adopt")
    for file in classifier.iterdir():
        if file.name.startswith(("tokenizer", "vocab", "special")):
            file.unlink()
    assert_complaint(invoke("adopt", classifier, *texts), "adopt", "no tokenizer beside the weights")
    complaint = "is not what a BertForSequenceClassification has"
    assert_complaint(invoke("export", trained / "model", "--to", tmp_path / "plain"), "export", complaint)
    assert not (tmp_path / "out").exists() and not (tmp_path / "plain").exists()


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "adopting.md").read_text()


def test_the_documented_example(classifier, data, tmp_path, monkeypatch):
    example, _ranking = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    classifier.rename(tmp_path / "my-classifier")
    (tmp_path / "traffic.txt").write_text((data / "texts.txt").read_text())
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "the example of docs/adopting.md", "exec"), {"__name__": "example"})
    assert FastBertForSequenceClassification.from_pretrained(tmp_path / "fast").config.id2label == NAMES


def test_the_documented_commands_and_the_ranking(classifier, tiny_backbone, tmp_path, monkeypatch):
    """From first command to answers; the server has tests of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("my-classifier", "my-guard"):
        shutil.copytree(classifier, name)
    torch.manual_seed(0)
    BertForSequenceClassification.from_pretrained(tiny_backbone, num_labels=1).save_pretrained("my-reranker")
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained("my-reranker")
    for number, name in enumerate(("traffic", "new", "later-traffic")):
        texts = [f"{text_of(row)} {row}" for row in range(400 * number, 400 * number + (400 if number == 2 else 9))]
        Path(f"{name}.txt").write_text("\n".join(texts) + "\n")
        pairs = ["query\tdocument", *(f"{text}\t{text_of(row)}" for row, text in enumerate(texts))]
        Path(f"{name.replace('traffic', 'pairs')}.tsv").write_text("\n".join(pairs) + "\n")
    Path("new.tsv").rename("new-pairs.tsv")
    lines = "\n".join(re.findall(r"```\n(fastbert.*?)```", PAGE, flags=re.DOTALL)).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line]
    assert [words[1] for words in commands] == ["adopt", "calibrate", "predict"] + 2 * [
        *("adopt", "calibrate", "predict", "serve")
    ]
    for _, *words in commands:
        if words[0] != "serve":
            succeed(*words)
    assert Path("labels.tsv").read_text().startswith("label\t") and Path("scores.tsv").read_text().startswith(
        "query\tsc"
    )
    _, ranking = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    documents = [text_of(row) for row in range(12)]
    values = {"old_queries": [(text_of(row), documents) for row in range(40)], "query": "good", "documents": documents}
    exec(compile(ranking, "the ranking of docs/adopting.md", "exec"), values)
    assert len(values["found"].documents) == 10

"""Models with one output in commands: adopted, calibrated by how far a score may move, and answering with scores."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from fastbert_hf import FastBertForSequenceClassification, predict
from fastbert_hf.exits.calibrated_setting import CalibratedSetting
from helpers.cli import QUICK_DISTIL, assert_complaint, invoke, succeed, text_of

COLUMNS = ("--text-column", "query", "--pair-column", "document")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Files of pairs without labels: 40 to learn from, 200 others to calibrate on."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, numbers in (("traffic", range(40)), ("later", range(100, 300))):
        rows = [f"{text_of(number)}\t{text_of(number // 2)} {number} {text_of(7 * number)}" for number in numbers]
        (folder / f"{name}.tsv").write_text("\n".join(["query\tdocument", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def adopted(tiny_backbone, pairs, tmp_path_factory):
    """Folder of an adopted reranker, made by the command."""
    folder = tmp_path_factory.mktemp("reranker")
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(tiny_backbone, num_labels=1)
    with torch.no_grad():
        model.classifier.weight.normal_(0, 1)
    model.save_pretrained(folder / "plain")
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(folder / "plain")
    told = succeed(
        *("adopt", folder / "plain", "--texts", pairs / "traffic.tsv", *COLUMNS, "--out", folder / "fast"),
        *(*QUICK_DISTIL, "--max-length", 24, "--precision", "fp32"),
    ).stdout
    assert "next: fastbert calibrate --max-score-change" in told and "--dev" not in told
    return folder / "fast" / "model"


def test_from_pairs_to_scores(adopted, pairs, tmp_path):
    texts = (adopted, pairs / "later.tsv", *COLUMNS)
    (header, *rows), last = table_of(succeed("predict", *texts))
    assert header == ["score", "uncertainty", "exit_layer"] and last.endswith("full depth (not calibrated)")
    assert len(rows) == 200 and {tuple(row[1:]) for row in rows} == {("inf", "3")}
    model, tokenizer = (
        FastBertForSequenceClassification.from_pretrained(adopted),
        AutoTokenizer.from_pretrained(adopted),
    )
    lines = [tuple(line.split("\t")) for line in (pairs / "later.tsv").read_text().splitlines()[1:]]
    full_depth = predict(model, tokenizer, lines).scores
    torch.testing.assert_close(torch.tensor([float(row[0]) for row in rows]), full_depth, rtol=1e-4, atol=1e-4)

    distance = float(full_depth.std()) / 2
    wish = ("--data", pairs / "later.tsv", *COLUMNS, "--max-score-change", distance)
    told = succeed("calibrate", adopted, *wish, "--max-disagreement", 0.3).stdout
    assert f"have a score at their exit that is more than {distance:g} from full depth's" in told
    assert (
        "scores further from full depth's than that: " in told and "setting: a text leaves when the change of" in told
    )
    setting = CalibratedSetting.load(adopted)
    assert (setting.objective.max_score_change, setting.objective.max_disagreement) == (distance, 0.3)

    (_, *rows), last = table_of(succeed("predict", *texts))
    promise = f"at most 30 % of scores more than {distance:g} from full depth's"
    assert last.endswith(f"calibrated setting ({promise})") and {row[2] for row in rows} > {"3"}
    given = torch.tensor([float(row[0]) for row in rows])
    assert float(((given - full_depth).abs() > distance).float().mean()) < 0.3
    audited = succeed("predict", *texts, "--audit", 1)
    assert table_of(audited)[0][1:] == rows
    differing = int(((given - full_depth).abs() > distance).sum())
    assert f"audit: {differing} of 200 texts got another answer than at full depth, more than" in audited.stderr

    (_, *fastest), last = table_of(succeed("predict", *texts, "--speed", 50))  # a change of the score
    assert {row[2] for row in fastest} == {"2"} and last.endswith("Speed 50")
    for ending in (".jsonl", ".parquet"):
        out = tmp_path / f"scores{ending}"
        succeed("predict", *texts, "--keep", "query", "--out", out)
        if ending == ".jsonl":
            read = [json.loads(line) for line in out.read_text().splitlines()]
            assert [*read[0]] == ["query", "score", "uncertainty", "exit_layer"]
            scores = [row["score"] for row in read]
            assert all((row["uncertainty"] is None) == (row["exit_layer"] == 1) for row in read)
        else:
            parquet = pytest.importorskip("pyarrow.parquet")
            scores = parquet.read_table(out).to_pydict()["score"]
        torch.testing.assert_close(torch.tensor(scores), given, rtol=1e-4, atol=1e-4)


def table_of(result) -> tuple[list[list[str]], str]:
    return [line.split("\t") for line in result.stdout.splitlines()], result.stderr.splitlines()[-1]


def test_complaints(adopted, trained, pairs, data, tmp_path):
    empty, twelve, tongue = tmp_path / "empty.txt", tmp_path / "twelve.txt", tmp_path / "tongue.txt"
    empty.write_text("")
    twelve.write_text("".join(f"good film {number}\n" for number in range(12)))
    tongue.write_text("".join(f"ein guter film {number}\n" for number in range(20)))
    later = ("--data", pairs / "later.tsv", *COLUMNS)
    classes = trained / "model"
    for words, message in (
        (("calibrate", adopted, *later, "--max-disagreement", 0.1), "say how far a score may be from it"),
        (("calibrate", adopted, *later, "--min-speedup", 1.2), "say how far a score may be from it"),
        (("calibrate", adopted, *later, "--max-score-change", 0), "a distance between scores, above 0; got 0"),
        (("calibrate", adopted, *later, "--max-score-change", 1), "200 samples cannot show with 0.95 confidence"),
        (("calibrate", adopted, *later, "--max-score-change", 1, "--max-drop", 0.1), "a score has no accuracy to lose"),
        (("calibrate", adopted, "--data", twelve, "--max-score-change", 1), "299 samples are enough if"),
        (("calibrate", adopted, "--data", empty, "--max-score-change", 1), "no samples; add some"),
        (("calibrate", classes, "--data", twelve, "--max-score-change", 1), "is for models with one output, a score"),
        (("predict", adopted, twelve, "--probabilities"), "no probabilities; leave --probabilities out"),
        (("predict", adopted, twelve, "--speed", "inf"), "a change of the score, finite and at least 0"),
        (("predict", classes, twelve, "--speed", 2), "--speed 2: a Speed of this model is from 0 to 1"),
        (("predict", adopted, empty), "empty.txt"),
        (("distill", adopted, "--texts", twelve, "--targets", "hard"), "--targets hard takes labels"),
    ):
        refused = invoke(*words)
        assert_complaint(refused, words[0], message)
    told = succeed(
        "calibrate", adopted, "--data", tongue, "--max-score-change", 9, "--max-disagreement", 0.3, "--dry-run"
    )
    assert "tokens are unknown to the model's tokenizer: are the texts in another language" in told.stderr

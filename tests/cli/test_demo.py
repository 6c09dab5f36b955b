"""`fastbert demo` from files to report with a tiny backbone, its measurements on known numbers, and its complaints."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast
from typer.testing import CliRunner

from fastbert_cli.app import app
from fastbert_cli.demo.command import Demo
from fastbert_cli.demo.measurement import Scores, make_rows, recorded_scores
from fastbert_cli.demo.run import cache_folder
from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from fastbert_hf.calibration import ExitRecords
from fastbert_hf.flops import ModelShape
from fastbert_hf.timing import Seconds

WORDS = ["good", "bad", "fine", "film", "book", "the", "a", "very", "not", "is"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(vocab_size=15, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, size in (("train", 160), ("dev", 64)):
        lines = ["label\ttext"]
        for number in range(size):
            label = ("no", "yes")[number % 2]
            words = " ".join(WORDS[(number * k) % len(WORDS)] for k in range(2, 3 + number % 9))
            lines.append(f"{label}\t{words} {'good' if label == 'yes' else 'bad'} <script>|")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_from_files_to_report(backbone, files, tmp_path):
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    out = tmp_path / "out"
    result = invoke(
        *("demo", "--train", files / "train.tsv", "--dev", files / "dev.tsv", "--backbone", backbone, "--out", out),
        *("--epochs", 2, "--distil-epochs", 2, "--timed", 64, "--rounds", 2, "--speed", 0.3, "--speed", 0.9),
    )
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        *("model", "results.json", "examples.json", "report.md", "curve.png")
    }
    results = json.loads((out / "results.json").read_text())
    assert [row["speed"] for row in results["rows"]] == [None, 0.3, 0.9]
    full, *adaptive = results["rows"]
    assert full["mean_exit_layer"] == results["layers"] == 3 and full["flops_speedup"] == 1
    assert adaptive[0]["mean_exit_layer"] >= adaptive[1]["mean_exit_layer"]
    assert {"unpatched", "patched"} <= set(full["variants"]) and len(full["variants"]["patched"]["seconds"]) == 2
    for row in results["rows"]:
        assert row["variants"]["patched"]["accuracy"] == row["variants"]["unpatched"]["accuracy"]
        assert row["variants"]["patched"]["macro_f1"] == pytest.approx(row["variants"]["unpatched"]["macro_f1"])
    assert results["agreement"]["patched"]["labels"] == 1
    text = (out / "report.md").read_text()
    found = results["verdict"]
    assert found["samples"] == 64 and found["unit"] == "words" and found["bag"] == 1  # a word tells the class
    assert "| model | accuracy | macro F1 | ms per text |" in text
    assert f"| unpatched | {full['variants']['unpatched']['accuracy']:.1%} | " in text
    assert found["sentence"] in text and found["sentence"] in " ".join(result.output.split())
    assert "The first layers alone, with the head behind the last of them: 1: " in text
    assert "<script>" not in text and "&lt;script>\\|" in text
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")

    model = FastBertForSequenceClassification.from_pretrained(out / "model")
    assert model.config.id2label == {0: "no", 1: "yes"} and len(model.heads) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "only.tsv"], "--train is for --dev: one file is trained on"),
        (["--train", "absent.tsv", "--dev", "absent.tsv"], "cannot be read"),
        (["--speed", "1.5"], "at most 1"),
        (["--backbone", "no/such/folder/anywhere", "--train", "{train}", "--dev", "{train}"], "no/such/folder"),
    ],
)
def test_complaints_are_one_line(files, tmp_path, arguments, message):
    arguments = [argument.format(train=files / "train.tsv") for argument in arguments]
    result = invoke("demo", "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.startswith("fastbert demo: ")
    assert "Traceback" not in result.output


def test_no_speed_up_is_reported_where_answers_differ():
    # Three samples: sure at once; sure at layer 2; never sure.
    sure, unsure = [9.0, 0.0], [0.0, 0.0]
    logits = torch.tensor([[sure, sure, sure], [unsure, sure, sure], [unsure, unsure, unsure]])
    shape = ModelShape(hidden_size=8, intermediate_size=16, num_layers=3, head_hidden_size=4, num_labels=2)
    records = ExitRecords(logits, torch.tensor([0, 0, 1]), torch.tensor([4, 4, 4]), shape)
    runs = [(name, speed) for speed in (None, 0.3) for name in ("unpatched", "patched")]
    times, scores = dict.fromkeys(runs, Seconds([1.0])), dict.fromkeys(runs, Scores(0.5, 0.4))
    assert recorded_scores(records, None) == pytest.approx((2 / 3, (2 * 2 / (2 + 3) + 0) / 2))  # always the first class
    for agrees in (True, False):
        rows = make_rows(records, 2, scores, times, agrees)
        assert [(row["speed"], row["mean_exit_layer"]) for row in rows] == [(None, 3), (0.3, 2)]
        assert rows[0]["flops_speedup"] == 1 and 1 < rows[1]["flops_speedup"] < 2  # of the first two: 1.5 layers of 3
        figures = [figure for row in rows for figure in row["variants"].values()]
        assert all((figure["accuracy"], figure["macro_f1"]) == (0.5, 0.4) for figure in figures)
        assert all(("speedup" in figure) == ("realisation" in figure) == agrees for figure in figures)


def test_frozen_states_are_cached_where_they_fit(tmp_path):
    backbone = BertConfig(vocab_size=15, hidden_size=32, num_hidden_layers=3, num_attention_heads=2)
    model = FastBertForSequenceClassification(FastBertConfig(backbone, num_labels=2))
    options = Demo(out=tmp_path, max_length=10_000)
    assert cache_folder(options, model, 100) == tmp_path
    # 10,000 tokens of 2 students, 32 bfloat16 numbers each, are 1.28 MB a text; the limit is 20 GB.
    assert cache_folder(options, model, 20_000) is None

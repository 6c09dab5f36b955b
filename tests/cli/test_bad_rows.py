"""Rows that cannot be used: every command tells all of them at once, and names options as they are typed."""

from __future__ import annotations

import json

import pytest

from fastbert_hf.data import FIRST_ROWS
from helpers.cli import assert_complaint, invoke, options_of

TRAIN = ("train", "--train", "{file}", "--out", "{out}")
# Commands that read {file}, with its labels and without.
LABELLED = [
    TRAIN,
    ("train", "--train", "{data}/train.tsv", "--dev", "{file}", "--out", "{out}"),
    ("distill", "{model}", "--texts", "{data}/texts.txt", "--dev", "{file}", "--out", "{out}"),
    ("distill", "{model}", "--texts", "{file}", "--targets", "hard", "--out", "{out}"),
    ("evaluate", "{model}", "--data", "{file}"),
    ("compare", "{model}", "{model}", "--data", "{file}"),
    ("analyze", "{model}", "--data", "{file}"),
    ("calibrate", "{model}", "--data", "{file}", "--max-drop", "0.1"),
    ("demo", "--train", "{data}/train.tsv", "--dev", "{file}", "--out", "{out}"),
]
UNLABELLED = [
    ("train", "--train", "{data}/train.tsv", "--unlabelled", "{file}", "--out", "{out}"),
    ("distill", "{model}", "--texts", "{file}", "--out", "{out}"),
    ("calibrate", "{model}", "--data", "{file}", "--max-disagreement", "0.1"),
]
commands = pytest.mark.parametrize("words", [*LABELLED, *UNLABELLED], ids=" ".join)


@pytest.fixture
def run(trained, data, tmp_path):
    def run(words, file):
        places = {"file": file, "model": trained / "model", "data": data, "out": tmp_path / "out"}
        result = invoke(*(word.format(**places) for word in words))
        assert not (tmp_path / "out").exists()
        return result

    return run


@commands
@pytest.mark.parametrize("before", [0, FIRST_ROWS + 100])
def test_all_of_them_in_one_report(run, tmp_path, words, before):
    if before and words[0] in ("analyze", "demo", "compare"):
        pytest.skip("reads as the others do")
    file = tmp_path / "bad.tsv"
    good = [f"{('no', 'yes')[number % 2]}\tgood {number}" for number in range(before)]
    file.write_text("\n".join(["label\ttext", *good, "yes\tgood film", "yes", "no\t", "label\ttext", "no\tbad"]) + "\n")
    result = run(words, file)
    assert result.exit_code == 2 and "Traceback" not in result.output
    headline, *lines = result.stderr.splitlines()[-4:]
    assert headline == f"fastbert {words[0]}: 3 rows cannot be used:"
    assert [line.split("; ")[0] for line in lines] == [
        f"  {file}, line {before + 3}: 1 fields, but the header has 2",
        f"  {file}, line {before + 4}: empty text",
        f"  {file}, line {before + 5}: the header again",
    ]


@pytest.mark.parametrize("words", [TRAIN, *UNLABELLED], ids=" ".join)
def test_the_option_for_a_column_is_named_as_typed(run, tmp_path, words):
    (tmp_path / "d.csv").write_text("body,label\ngood,yes\n")
    told = "separated by commas; if the text has another name, say so with --text-column\n"
    assert run(words, tmp_path / "d.csv").stderr.endswith(told)


def test_an_option_that_a_command_has_not_is_not_named(run, tmp_path):
    (tmp_path / "d.csv").write_text("text,class\ngood,yes\n")
    told = run(TRAIN, tmp_path / "d.csv").stderr
    assert told.endswith("separated by commas; if the label has another name, say so with --label-column\n")
    assert run(LABELLED[-1], tmp_path / "d.csv").stderr.endswith("separated by commas\n")
    rows = [{"text": "good", "label": "yes"}, {"text": "bad", "label": ["no"]}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = run(TRAIN, tmp_path / "d.jsonl").stderr
    assert told.endswith("write one or the other; several labels need --multi-label\n")
    assert run(("evaluate", "{model}", "--data", "{file}"), tmp_path / "d.jsonl").stderr.endswith("or the other\n")
    file = tmp_path / "t.txt"
    file.write_text("good\n")
    result = run(("calibrate", "{model}", "--data", "{file}", "--max-disagreement", "0.1", "--text-column", "x"), file)
    assert_complaint(result, "calibrate", "a .txt file has no columns; leave --text-column out")


def test_resuming_names_what_differs_as_typed(tiny_backbone, data, tmp_path):
    step = ("--max-length", 16, "--epochs", 1, "--batch-size", 8, "--no-distil", "--out", tmp_path / "out")
    assert invoke("train", *options_of(data, tiny_backbone), *step).exit_code == 0
    result = invoke("train", "--out", tmp_path / "out", "--resume", "--batch-size", 4)
    assert_complaint(result, "train", "out holds another run: --batch-size is 8 there and 4 now; resume without")

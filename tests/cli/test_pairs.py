"""Options that exclude or need each other: every pair of the table is refused with its reason, before any file."""

from __future__ import annotations

import pytest

from fastbert_cli.pairs import ALL_TEST, GIVEN, OUTPUT_FORM, PAIRS, READS_LABELS, STEPS
from fastbert_cli.predict.inputs import OUTPUTS
from fastbert_hf.data.tables import TABLES
from helpers.cli import assert_complaint, invoke

# What a call must have; no such files are there.
CALLS = {
    "train": ["--train", "absent.tsv"],
    "distill": ["absent", "--texts", "absent.txt"],
    "adopt": ["absent", "--texts", "absent.txt"],
    "calibrate": ["absent", "--data", "absent.tsv", "--max-drop", "0.1"],
    "evaluate": ["absent", "--data", "absent.tsv"],
    "compare": ["absent", "absent", "--data", "absent.tsv"],
    "analyze": ["absent", "--data", "absent.tsv"],
    "predict": ["absent", "absent.txt"],
    "serve": ["absent"],
    "demo": [],
}
# Of options that any value will do for; the others are switches.
VALUES = {
    **dict.fromkeys(
        ("--pair-column", "--text-column", "--unlabelled", "--dev", "--dev-split", "--train"), "absent.tsv"
    ),
    **dict.fromkeys(("--distil-epochs", "--distil-batch-size", "--cache-limit-gb", "--temperature", "--speedup"), "2"),
    **dict.fromkeys(("--distil-learning-rate", "--hard-weight", "--speed", "--batch-size", "--latency-ms"), "1"),
    **{"--objective": "ce", "--targets": "soft", "--cache-dtype": "float32", "--pooling": "mean", "--head": "pooled"},
    **{"--best-by": "macro_f1", "--dtype": "bf16", "--bf16-product": "output", "--backend": "none"},
    **{"--timed-texts": "64", "--max-epochs": "9", "--max-disagreement": "0.1", "--label-column": "label"},
    **{"--audit": "0.1", "--audit-seed": "3", "--max-score-change": "1", "--max-drop": "0.1"},
    **{"--confusion": "confusion.png", "--fast-setting": "absent.json", "--target-p99-ms": "9"},
    **{"--seed": "7", "--max-f1-drop": "0.1", "--min-speedup": "2", "--host": "::1", "--port": "1", "--socket": "s"},
}


def words_of(option, value=GIVEN):
    if option == STEPS:
        return ["--joint" if value == "joint" else "--no-distil"]
    if option == OUTPUT_FORM:
        return ["--out", f"labels{value}"]
    if option == ALL_TEST:
        return words_of(value)
    if option == READS_LABELS:
        return ["--dev", "absent.tsv"]
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if value is GIVEN:
        return [option, VALUES[option]] if option in VALUES else [option]
    return [option, str(value)]


def cases():
    for command, pairs in PAIRS.items():
        for pair in pairs:
            for value in [GIVEN] if pair.needs or pair.values is GIVEN else pair.values:
                yield pytest.param(command, pair, value, id=f"{command} {pair.option} {pair.other} {value}")


@pytest.mark.parametrize(("command", "pair", "value"), list(cases()))
def test_what_would_do_nothing_is_refused(command, pair, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = [command, *CALLS[command], *words_of(pair.option)]
    if command == "demo":
        call = ["demo", *words_of(pair.option)]
    right = [] if not pair.needs else words_of(pair.other, GIVEN if pair.values is GIVEN else pair.values[0])
    wrong = ["--no-time"] if pair.other == "--time" else [] if pair.needs else words_of(pair.other, value)
    assert_complaint(invoke(*call, *wrong), command, pair.reason)
    assert invoke(*call, *wrong).stderr.startswith(f"fastbert {command}: {pair.option} ")
    assert pair.reason not in invoke(*call, *right).stderr
    assert not list(tmp_path.iterdir())


def test_a_file_may_say_what_an_option_needs(tmp_path):
    (tmp_path / "config.yaml").write_text("model: {head_type: pooled}\n")
    call = ["train", "--train", tmp_path / "absent.tsv", "--pooling", "mean"]
    assert "--pooling is for --head pooled: the attentive head has no pooling" in invoke(*call).stderr
    assert "absent.tsv: cannot be read" in invoke(*call, "--config", tmp_path / "config.yaml").stderr


def test_every_form_of_output_but_tables_takes_no_safe_tables():
    refused = {ending for pair in PAIRS["predict"] if pair.other == OUTPUT_FORM for ending in pair.values}
    assert refused == set(OUTPUTS) - set(TABLES)


@pytest.mark.parametrize("command", ["predict", "calibrate", "distill", "adopt", "analyze", "serve"])
def test_what_does_something_is_not_refused(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = {
        "predict": [["--safe-tables"], ["--raw-tables", "--out", "x.csv"], ["--safe-tables", "--out", "x.TSV"]],
        "calibrate": [
            ["--seed", "7"],
            ["--seed", "7", "--one-speed", "--temperature-scaling"],
            ["--no-one-speed", "--criterion", "auto"],
            ["--one-speed", "--criterion", "confidence"],
        ],
        "distill": [["--label-column", "y", "--dev", "d.tsv"], ["--label-column", "y", "--targets", "hard"]],
        "adopt": [["--label-column", "y", "--targets", "mixed"]],
        "analyze": [["--no-time", "--backend", "cpu"], ["--backend", "triton"]],
        "serve": [["--socket", "s"], ["--host", "::1", "--port", "1"]],
    }
    for words in calls[command]:
        refused = invoke(command, *CALLS[command], *words)
        assert refused.exit_code == 2 and "go together" not in refused.stderr and "give both" not in refused.stderr


def test_a_seed_and_a_latency_go_together_with_one_speed(tmp_path):
    call = ("calibrate", tmp_path / "absent", "--data", tmp_path / "absent.tsv", "--latency-ms", 5, "--one-speed")
    assert_complaint(invoke(*call, "--seed", 7), "calibrate", "absent: no such folder")


@pytest.mark.parametrize("command", ["distill", "adopt"])
def test_a_text_column_of_files_without_columns_is_refused(command, trained, data):
    folder = trained / "model"
    call = (command, folder, "--texts", data / "texts.txt", "--text-column", "body", "--out", data / "new")
    told = "--text-column body: the texts are in .txt, without columns; leave it out"
    assert_complaint(invoke(*call), command, told)
    beside = invoke(*call, "--texts", data / "absent.tsv")
    assert beside.exit_code == 2 and told not in beside.stderr

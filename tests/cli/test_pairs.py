"""Options that exclude or need each other: every pair of the table is refused with its reason, before any file."""

from __future__ import annotations

import pytest

from fastbert_cli.pairs import GIVEN, PAIRS, STEPS
from helpers.cli import assert_complaint, invoke

# What a call must have; no such files are there.
CALLS = {
    "train": ["--train", "absent.tsv"],
    "distill": ["absent", "--texts", "absent.txt"],
    "adopt": ["absent", "--texts", "absent.txt"],
    "calibrate": ["absent", "--data", "absent.tsv", "--max-drop", "0.1"],
    "evaluate": ["absent", "--data", "absent.tsv"],
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
}


def words_of(option, value=GIVEN):
    if option == STEPS:
        return ["--joint" if value == "joint" else "--no-distil"]
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

"""Rounds of step 1 in `fastbert train`: what limits them, what is said of them, and how a finished run trains on."""

from __future__ import annotations

import io
import shlex
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from fastbert_cli.train.run import Rounds, how_to_train_on
from fastbert_hf.training import StillRising
from helpers.cli import (
    QUICK_DISTIL,
    assert_complaint,
    assert_same_weights,
    command_to_go_on,
    interrupt_at,
    invoke,
    options_of,
    results_of,
    succeed,
)

QUICK = ["--learning-rate", 5e-3, "--batch-size", 8, "--max-length", 16, "--precision", "fp32"]


@pytest.fixture
def every_score_rises(monkeypatch):
    monkeypatch.setattr("fastbert_hf.training.rounds.RISE", -1.0)


def test_what_is_said_of_a_score_that_still_rises():
    shown = io.StringIO()
    output = SimpleNamespace(
        config=SimpleNamespace(fine_tune=SimpleNamespace(epochs=3)),
        console=Console(file=shown, width=200),
        folder="a run",
    )
    rounds = Rounds(output)
    rounds.tell(StillRising(0.6, 0.7, 3, True))
    assert "(60.00% before, 70.00% in the last epoch): another 3 epochs" in shown.getvalue()
    assert rounds.stopped_by_limit is None
    last = StillRising(0.8, 0.9, 9, False)
    rounds.tell(last)
    assert rounds.stopped_by_limit == last and shown.getvalue().count("\n") == 1
    assert how_to_train_on(output, last).endswith(
        "(80.00% before, 90.00% in the last epoch); to train on from there: fastbert train --out 'a run' --resume "
        "--max-epochs 18"
    )


def test_a_finished_run_trains_on_to_the_result_of_a_longer_one(
    tiny_backbone, data, tmp_path, monkeypatch, every_score_rises
):
    options = [*options_of(data, tiny_backbone), *QUICK, *QUICK_DISTIL, "--epochs", 2]
    whole, out = tmp_path / "whole", tmp_path / "out"
    succeed("train", *options, "--max-epochs", 4, "--out", whole)
    short = succeed("train", *options, "--max-epochs", 3, "--out", out)
    assert list(results_of(out)["training"]) == ["fine_tune", "distil"]
    note = short.stderr.splitlines()[-1]
    assert note.startswith("note: the score on --dev still rises (")
    fewer = invoke("train", "--out", out, "--resume", "--max-epochs", 2)
    assert_complaint(fewer, "train", "another run: --max-epochs is 3.0 there and 2.0 now")
    words = shlex.split(note.partition("to train on from there: ")[2])
    assert words == ["fastbert", "train", "--out", str(out), "--resume", "--max-epochs", "4"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)  # in the second round
        stopped = invoke(*words[1:])
    assert stopped.exit_code == 130 and (out / "fine_tune_2").exists() and not (out / "distil").exists()
    succeed(*command_to_go_on(stopped.stderr))
    assert_same_weights(whole, out)
    assert list(results_of(out)["training"]) == ["fine_tune", "fine_tune_2", "distil"]
    assert (
        results_of(out)["dev"] == results_of(whole)["dev"] and results_of(out)["config"] == results_of(whole)["config"]
    )


def test_the_limit_shortens_the_first_round(tiny_backbone, data, tmp_path):
    out = tmp_path / "out"
    succeed("train", *options_of(data, tiny_backbone), *QUICK, "--no-distil", "--max-epochs", 1, "--out", out)
    config = yaml.safe_load((out / "config.yaml").read_text())["fine_tune"]
    assert config["epochs"] == config["max_epochs"] == 1 and results_of(out)["training"]["fine_tune"]["steps"] == 5


def test_a_limit_of_another_run_is_for_runs_with_rounds(tiny_backbone, data, tmp_path):
    (tmp_path / "c.yaml").write_text("fine_tune: {max_epochs: 1}\n")
    begin = [
        "train",
        "--config",
        tmp_path / "c.yaml",
        "--backbone",
        tiny_backbone,
        "--train",
        data / "train.tsv",
        *QUICK,
    ]
    begin += ["--epochs", 2, "--out", tmp_path / "out"]
    rounds = invoke(*begin, "--dev", data / "dev.tsv")
    assert_complaint(rounds, "train", "--max-epochs 1 is the limit of all rounds, and --epochs 2 of each; raise")
    succeed(*begin, "--no-distil")
    assert results_of(tmp_path / "out")["training"]["fine_tune"]["steps"] == 10

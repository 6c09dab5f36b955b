"""`fastbert train` that was stopped, by Ctrl-C or a full disk, goes on to the result of a run that was not."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
import time

import pytest

from fastbert_cli.output_folder import OutputFolder
from fastbert_cli.train.command import TrainConfig
from fastbert_cli.training import how_to_go_on
from helpers.cli import (
    QUICK,
    QUICK_DISTIL,
    assert_complaint,
    assert_same_weights,
    command_to_go_on,
    interrupt,
    invoke,
    options_of,
    results_of,
    succeed,
)


@pytest.fixture(scope="module")
def whole(tiny_backbone, data, tmp_path_factory):
    """A run without interruption, with dropout, and the options that made it."""
    options = [*options_of(data, tiny_backbone), *QUICK, *QUICK_DISTIL]
    out = tmp_path_factory.mktemp("whole") / "run"
    succeed("train", *options, "--out", out)
    return out, options


@pytest.mark.parametrize("call", [3, 20, 23], ids=["step 1", "end of step 1", "step 2"])
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(whole, tmp_path, monkeypatch, call):
    expected, options = whole
    out = tmp_path / "with blank"
    again = interrupt(monkeypatch, call, "train", *options, "--out", out)
    assert not (out / "model").exists() and again == ["train", "--out", str(out), "--resume"]
    succeed(*again)
    assert_same_weights(expected, out)
    assert results_of(expected)["dev"] == results_of(out)["dev"]
    losses = [{name: step["losses"] for name, step in results_of(run)["training"].items()} for run in (expected, out)]
    assert losses[0].keys() == losses[1].keys()
    for name, values in losses[0].items():
        assert losses[1][name] == pytest.approx(values, rel=1e-5)


def full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("writer", "where"),
    [
        ("fastbert_hf.FastBertForSequenceClassification.save_pretrained", "step 1"),
        ("fastbert_cli.output_folder.write_model_card", "saving the model"),
    ],
)
def test_a_full_disk_loses_nothing_that_was_finished(whole, tmp_path, monkeypatch, writer, where):
    expected, options = whole
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(writer, full_disk)
        result = invoke("train", *options, "--out", out)
    again = f"make room, then go on with: fastbert train --out {out} --resume"
    line = f"fastbert train: {where}: no space is left on the disk of {out}; {again}"
    assert result.exit_code == 2 and result.stderr.splitlines()[-1].endswith(line)
    assert "Traceback" not in result.output
    assert not (out / "model").exists() and not (out / "results.json").exists() and not list(out.glob(".*"))
    succeed("train", "--out", out, "--resume")
    assert_same_weights(expected, out)


def test_what_is_finished_is_not_done_again(whole, tmp_path, monkeypatch):
    expected, options = whole
    shutil.copytree(expected, tmp_path / "out")
    out = ["--out", tmp_path / "out"]
    monkeypatch.setattr("fastbert_hf.training.trainer.StepTrainer.training_step", None)
    succeed("train", *out, "--resume", "--cache", "--cache-limit-gb", 3)  # which changes no result
    assert_same_weights(expected, tmp_path / "out")
    assert_complaint(invoke("train", *options, *out), "train", "holds a run already; add --resume")
    changed = invoke("train", *out, "--resume", "--learning-rate", 1e-3)
    assert_complaint(changed, "train", "another run: --learning-rate is 0.005 there and 0.001 now")


@pytest.mark.proof  # a program in a process of its own, on a terminal
def test_ctrl_c_in_a_terminal(tiny_backbone, data, tmp_path):
    out = tmp_path / "out"
    options = [*options_of(data, tiny_backbone), *QUICK, "--epochs", 10_000, "--no-distil", "--out", out]
    command = [sys.executable, "-c", "from fastbert_cli import main; main()", "train", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 600
            while not (out / "fine_tune" / "metrics.jsonl").exists() and process.poll() is None:
                assert time.monotonic() < deadline, "no epoch within ten minutes"
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 130, stderr
    assert command_to_go_on(stderr) == ["train", "--out", str(out), "--resume"]
    assert "Traceback" not in stderr and list((out / "fine_tune").glob("checkpoint-*"))


def test_ctrl_c_in_several_processes_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    output = OutputFolder(("train",), tmp_path, TrainConfig, None, {}, resume=False)
    assert how_to_go_on(("train",), tmp_path) == "stopped before training began"
    output.begin()
    command = f"fastbert train --out {tmp_path} --resume"
    assert how_to_go_on(("train",), tmp_path) == f"stopped; go on, in 2 processes again, with: {command}"

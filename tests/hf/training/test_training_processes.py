"""Two processes with `accelerate launch` (gloo, on the CPU) train like one, given the same batches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.training import distill, fine_tune, train_jointly
from helpers.training import QUICK, QUICK_DISTILLATION, State, make_data, make_model, make_tokenizer, snapshot

TESTS = Path(__file__).parents[2]


def train(folder: Path) -> dict[str, Any]:
    """All steps, one after the other; every process gets the same call and returns what it saw.

    64 samples are whole batches for one process and for two. Dropout draws differently in each process, so there is
    none here.
    """
    model, tokenizer, data, dev = make_model(dropout=0.0), make_tokenizer(), make_data(64), make_data(16)
    cache = str(folder / "cache")
    results = {
        "fine_tune": fine_tune(model, tokenizer, data, QUICK, dev=dev, run_dir=folder / "fine_tune"),
        "distil": distill(model, tokenizer, data, QUICK_DISTILLATION, dev=dev, run_dir=folder / "distil"),
        "cached": distill(model, tokenizer, data, replace(QUICK_DISTILLATION, cache_dir=cache, cache_dtype="float32")),
        # Every dev sample counts once, even where they are no whole batches.
        "train_jointly": train_jointly(model, tokenizer, data, QUICK, dev=make_data(13), run_dir=folder / "joint"),
        # Five samples: a batch that the processes share unevenly, and none is dropped.
        "uneven": distill(model, tokenizer, make_data(5), replace(QUICK_DISTILLATION, batch_size=2)),
    }
    report: dict[str, Any] = {name: result.epochs for name, result in results.items()}
    for epoch in report["train_jointly"]:
        del epoch["dev_loss"]  # Trainer weighs its batches alike, also smaller ones
    report["steps"] = {name: result.steps for name, result in results.items()}
    report["weights"] = sum(parameter.double().abs().sum().item() for parameter in model.parameters())
    report["cache is gone"] = list((folder / "cache").iterdir()) == []
    report["resumed is whole"] = train_with_a_stop(folder)
    return report


def train_with_a_stop(folder: Path) -> bool:
    """Return whether a run with Ctrl-C in its second epoch ends as one without, dropout and all."""

    def run(name: str, model: FastBertForSequenceClassification, **options: Any) -> State:
        fine_tune(model, make_tokenizer(), make_data(64), QUICK, run_dir=folder / name, **options)
        return snapshot(model)

    def press(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 11:
            signal.raise_signal(signal.SIGINT)

    calls = 0
    whole = run("whole", make_model())
    stopped = make_model()
    stopped.layers[0].register_forward_hook(press)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stopped)
    assert (folder / "stopped" / "checkpoint-8").exists()
    resumed = run("stopped", make_model(), resume=True)
    return all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.proof
def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    # Without GPUs, "multi_gpu" means several processes on the CPU; port 0 is any that is free.
    launch = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, "--main_process_port=0", __file__]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    outcome = subprocess.run(
        [*command, str(tmp_path / "two")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    one = train(tmp_path / "one")
    both = [json.loads((tmp_path / "two" / f"{rank}.json").read_text()) for rank in range(2)]
    for two in both:
        for step in ("fine_tune", "distil", "cached", "train_jointly"):
            for ours, theirs in zip(two[step], one[step], strict=True):
                assert ours.keys() >= {"loss", "learning_rate"}
                assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5), step
        assert two["steps"] == one["steps"] and two["steps"]["uneven"] == 6
        assert two["cache is gone"]
        assert two["resumed is whole"] and one["resumed is whole"]
    assert both[0]["weights"] == both[1]["weights"]
    assert [path.name for path in sorted((tmp_path / "two" / "fine_tune").glob("checkpoint-*"))] == [
        "checkpoint-16",
        "checkpoint-8",
    ]


def test_a_batch_that_devices_cannot_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 3))
    with pytest.raises(ValueError, match="batch_size=8 cannot be shared evenly by 3 devices"):
        fine_tune(make_model(), make_tokenizer(), make_data(), QUICK)
    with pytest.raises(ValueError, match="several processes need a run_dir"):
        fine_tune(make_model(), make_tokenizer(), make_data(), replace(QUICK, batch_size=9), dev=make_data())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(train(folder)))
    torch.distributed.destroy_process_group()

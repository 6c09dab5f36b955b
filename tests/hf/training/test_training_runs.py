"""The run folder: what is written, Ctrl-C, resuming, and what is refused."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.training import TrainingResult, TrainingSettings, distill, fine_tune, train_jointly
from fastbert_hf.training.run_folder import epoch_metrics
from helpers.training import QUICK, QUICK_DISTILLATION, State, changed, make_data, make_model, make_tokenizer, snapshot

STEPS: dict[str, tuple[Callable[..., TrainingResult], TrainingSettings]] = {
    "fine_tune": (fine_tune, replace(QUICK, epochs=3)),
    "distil": (distill, replace(QUICK_DISTILLATION, epochs=3)),
    "train_jointly": (train_jointly, replace(QUICK, epochs=3)),
}


def interrupt_at(module: torch.nn.Module, step: int) -> None:
    """Press Ctrl-C in the forward pass of optimiser step `step` (from 1) through `module`."""
    calls = 0

    def press(*_: Any) -> None:
        nonlocal calls
        if torch.is_grad_enabled():  # not on dev data
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGINT)

    module.register_forward_hook(press)


def run(step: str, model: FastBertForSequenceClassification, folder: Path, **options: Any) -> TrainingResult:
    function, settings = STEPS[step]
    return function(model, make_tokenizer(), make_data(), settings, run_dir=folder, **options)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[TrainingResult, State]]:
    """Result and weights of a whole run of a step."""

    @functools.cache
    def run_whole(step: str) -> tuple[TrainingResult, State]:
        model = make_model()
        result = run(step, model, tmp_path_factory.mktemp("whole"), dev=make_data(10))
        return result, snapshot(model)

    return run_whole


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    fine_tune(make_model(), make_tokenizer(), make_data(8), replace(QUICK, epochs=1), dev=make_data(8))
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.parametrize("step", STEPS)
def test_the_folder_tells_what_was_run_and_how_it_went(tmp_path: Path, step: str) -> None:
    model = make_model()
    result = run(step, model, tmp_path / "a" / "run", dev=make_data(10))
    folder = tmp_path / "a" / "run"
    described = json.loads((folder / "run.json").read_text())
    assert described["step"] == step and described["settings"]["seed"] == 42
    assert described["settings"]["learning_rate"] == QUICK.learning_rate
    assert described["model"]["backbone_config"]["hidden_size"] == 32
    assert described["data"]["train"]["texts"] == 60 and described["data"]["dev"]["texts"] == 10
    assert {"torch", "transformers"} <= described["machine"]["versions"].keys()

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.epochs and [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [8, 16, 24]
    assert all(0 <= line["dev_accuracy"] <= 1 and line["dev_loss"] > 0 for line in lines)

    assert {path.name for path in folder.glob("checkpoint-*")} >= {"checkpoint-24"}
    for checkpoint in folder.glob("checkpoint-*"):
        loaded = AutoModelForSequenceClassification.from_pretrained(checkpoint)
        assert isinstance(loaded, FastBertForSequenceClassification)
        assert (checkpoint / "tokenizer.json").exists()
    assert result.best_epoch is not None
    best = FastBertForSequenceClassification.from_pretrained(folder / f"checkpoint-{int(8 * result.best_epoch)}")
    assert changed(snapshot(best), model) == set()


def test_tensorboard_holds_the_losses(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = run("fine_tune", make_model(), tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(result.losses)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("at", [3, 11, 16])  # within the first epoch, within the second, at its very end
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: Callable[[str], tuple[TrainingResult, State]], step: str, at: int
) -> None:
    expected, weights = uninterrupted(step)
    interrupted = make_model()
    interrupt_at(interrupted.heads[0] if step == "distil" else interrupted.layers[0], at)
    with pytest.raises(KeyboardInterrupt, match="resume=True"):
        run(step, interrupted, tmp_path / "run", dev=make_data(10))
    assert (tmp_path / "run" / f"checkpoint-{at}" / "trainer_state.json").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not interrupted.training and not interrupted.frozen_for_distillation

    resumed = make_model()
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.fill_(0.1)  # whatever it has, the checkpoint's weights count
    torch.manual_seed(99)
    result = run(step, resumed, tmp_path / "run", dev=make_data(10), resume=True)
    assert changed(weights, resumed) == set()
    assert result.losses == pytest.approx(expected.losses, rel=1e-6)
    assert result.steps == expected.steps and result.best_epoch == expected.best_epoch
    for line, other in zip(result.epochs, expected.epochs, strict=True):
        assert line == pytest.approx(other, rel=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.epochs


def test_resuming_a_cached_distillation_gives_the_same_within_rounding(tmp_path: Path) -> None:
    function, settings = STEPS["distil"]
    assert settings.epochs == 3
    cached = replace(settings, cache_dir=tmp_path / "cache", cache_dtype="float32")  # type: ignore[call-arg]
    expected = function(make_model(), make_tokenizer(), make_data(), cached)
    model = make_model()
    interrupt_at(model.heads[0], 6)
    with pytest.raises(KeyboardInterrupt):
        function(model, make_tokenizer(), make_data(), cached, run_dir=tmp_path / "run")
    assert list((tmp_path / "cache").iterdir()) == []
    result = function(make_model(), make_tokenizer(), make_data(), cached, run_dir=tmp_path / "run", resume=True)
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)


def test_a_second_interrupt_ends_at_once_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    model = make_model()

    def press(*_: Any) -> None:
        if torch.is_grad_enabled() and len(list(tmp_path.glob("checkpoint-*"))) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    model.layers[0].register_forward_hook(press)
    model.layers[1].register_forward_hook(press)
    with pytest.raises(KeyboardInterrupt):
        run("fine_tune", model, tmp_path)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-8"]
    whole, resumed = make_model(), make_model()
    run("fine_tune", whole, tmp_path / "whole")
    run("fine_tune", resumed, tmp_path, resume=True)
    assert changed(snapshot(whole), resumed) == set()


def test_half_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = make_model()
    run("fine_tune", whole, tmp_path)
    (tmp_path / "checkpoint-24" / "trainer_state.json").write_text('{"best_')
    resumed = make_model()
    result = run("fine_tune", resumed, tmp_path, resume=True)
    assert result.steps == 24 and changed(snapshot(whole), resumed) == set()
    again = make_model()
    assert run("fine_tune", again, tmp_path, resume=True).epochs == result.epochs  # nothing left to do
    assert changed(snapshot(whole), again) == set()


@pytest.mark.parametrize("step", STEPS)
def test_a_checkpoint_with_other_names_is_not_resumed_from(tmp_path: Path, step: str) -> None:
    """Trainer alone would warn and go on with what the model happened to have."""
    run(step, make_model(), tmp_path)
    file = tmp_path / "checkpoint-24" / "model.safetensors"
    renamed = {name.replace("heads.0.dense", "heads.0.other"): value for name, value in load_file(file).items()}
    save_file(renamed, file, {"format": "pt"})
    with pytest.raises(RuntimeError, match=r"lacks \['heads.0.dense.*has unknown \['heads.0.other"):
        run(step, make_model(), tmp_path, resume=True)


def test_a_run_goes_on_in_a_folder_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole, settings = make_model(), replace(QUICK, epochs=6)  # of which the last is not the best

    def train(model: FastBertForSequenceClassification, folder: str, resume: bool = False) -> TrainingResult:
        data, dev = make_data(), make_data(30)
        return fine_tune(model, make_tokenizer(), data, settings, dev=dev, run_dir=folder, resume=resume)

    best = train(whole, "first").best_epoch
    assert best is not None and best < 5
    Path("first").rename("second")
    resumed = make_model()
    result = train(resumed, "second", resume=True)
    assert changed(snapshot(whole), resumed) == set() and result.best_epoch == best
    shutil.rmtree(f"second/checkpoint-{int(8 * best)}")
    with pytest.raises(ValueError, match=f"checkpoint-{int(8 * best)} is gone, which had the best score"):
        train(resumed, "second", resume=True)


def test_resuming_before_the_first_checkpoint_begins_at_the_beginning(tmp_path: Path) -> None:
    model = make_model()
    model.layers[0].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("fine_tune", model, tmp_path)
    assert run("fine_tune", make_model(), tmp_path, resume=True).steps == 24


def test_runs_that_are_not_to_be_mixed_up(tmp_path: Path) -> None:
    run("fine_tune", make_model(), tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run already; resume it"):
        run("fine_tune", make_model(), tmp_path / "run")
    with pytest.raises(ValueError, match="holds no run to resume"):
        run("fine_tune", make_model(), tmp_path / "other", resume=True)

    def resume(step: str = "fine_tune", size: int = 60, model: Any = None, **settings: Any) -> None:
        function, usual = STEPS[step]
        arguments = (model or make_model(), make_tokenizer(), make_data(size), replace(usual, **settings))
        function(*arguments, run_dir=tmp_path / "run", resume=True)

    with pytest.raises(ValueError, match="step 'fine_tune' there and 'train_jointly' now"):
        resume("train_jointly")
    with pytest.raises(ValueError, match="learning_rate 0.002 there and 0.001 now"):
        resume(learning_rate=1e-3)
    with pytest.raises(ValueError, match="train .*'texts': 60.* there and .*'texts': 59"):
        resume(size=59)
    with pytest.raises(ValueError, match="exit_layers"):
        resume(model=make_model(exit_layers=[1, 3]))
    resume(keep_checkpoints=3)


def test_only_so_many_checkpoints_stay(tmp_path: Path) -> None:
    run("fine_tune", make_model(), tmp_path)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-16", "checkpoint-24"}


def test_parts_of_an_epoch_add_up() -> None:
    log = [
        {"loss": 4.0, "learning_rate": 0.5, "step": 2},
        {"loss": 1.0, "learning_rate": 0.4, "step": 3},
        {"loss": 2.0, "learning_rate": 0.3, "step": 4},
        {"eval_loss": 7.0, "eval_accuracy": 0.5, "eval_runtime": 9.0, "eval_steps_per_second": 9.0, "step": 4},
        {"loss": 3.0, "learning_rate": 0.1, "step": 6},  # half an epoch, the last
        {"train_runtime": 1.0, "train_loss": 2.0, "step": 6},
    ]
    assert epoch_metrics(log, steps_per_epoch=4) == [
        {"epoch": 1, "step": 4, "loss": 11 / 4, "learning_rate": 0.3, "dev_loss": 7.0, "dev_accuracy": 0.5},
        {"epoch": 2, "step": 6, "loss": 3.0, "learning_rate": 0.1},
    ]

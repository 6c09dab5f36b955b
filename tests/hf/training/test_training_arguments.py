"""What is passed on to `transformers`: callbacks, accumulation, schedulers, reports; and what is refused."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.integrations import integration_utils

from fastbert_hf.training import DistillationSettings, LabelSettings, TrainingResult, distill, fine_tune, train_jointly
from helpers.training import QUICK, QUICK_DISTILLATION, State, changed, make_data, make_model, make_tokenizer, snapshot

STEPS: dict[str, tuple[Any, Any]] = {
    "fine_tune": (fine_tune, QUICK),
    "distil": (distill, QUICK_DISTILLATION),
    "train_jointly": (train_jointly, QUICK),
}


class Witness(TrainerCallback):
    """Notes what it is called with."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.epochs = 0

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epochs += 1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def train(
    step: str, size: int = 60, dropout: float = 0.1, model: Any = None, **changes: Any
) -> tuple[TrainingResult, State]:
    function, settings = STEPS[step]
    options = {name: changes.pop(name) for name in ("run_dir", "resume", "callbacks", "dev") if name in changes}
    model = make_model(dropout=dropout) if model is None else model
    result = function(model, make_tokenizer(), make_data(size), replace(settings, **changes), **options)
    return result, snapshot(model)


def no_gradient(state: State) -> set[str]:
    """Biases of keys drop out of the softmax: their gradient is rounding, which AdamW makes as large as any."""
    return {name for name in state if name.endswith("key.bias")}


@pytest.mark.parametrize("step", STEPS)
def test_callbacks_are_called(step: str) -> None:
    witness = Witness()
    result, _ = train(step, callbacks=[witness])
    assert witness.epochs == 2 and len(witness.rates) == result.steps == 16
    assert witness.losses == result.losses


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("size", [60, 61])  # the last step has one batch of 4; one of 4 and one of 1
def test_accumulated_batches_equal_a_large_one(step: str, size: int) -> None:
    expected, whole = train(step, size, dropout=0.0, batch_size=8)
    result, parts = train(step, size, 0.0, batch_size=4, arguments={"gradient_accumulation_steps": 2})
    assert result.steps == expected.steps == 2 * math.ceil(size / 8)
    assert result.losses == pytest.approx(expected.losses, rel=1e-4)
    for name in whole.keys() - no_gradient(whole):
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=2e-4, msg=name)


def test_the_scheduler_is_the_one_asked_for() -> None:
    plain, cosine, constant = Witness(), Witness(), Witness()
    train("fine_tune", callbacks=[plain])
    train("fine_tune", callbacks=[cosine], arguments={"lr_scheduler_type": "cosine"}, warmup_fraction=0.25)
    train("fine_tune", callbacks=[constant], arguments={"lr_scheduler_type": "constant"})
    top = QUICK.learning_rate
    rates = [top * step / 4 for step in range(4)]
    rates += [top * 0.5 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert cosine.rates == pytest.approx(rates)
    assert constant.rates == pytest.approx([top] * 16) and plain.rates[-1] == pytest.approx(top / 15)


def interrupt_at(module: torch.nn.Module, call: int) -> None:
    """Press Ctrl-C in the training pass number `call` (from 1) through `module`."""
    calls = 0

    def press(*_: Any) -> None:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if torch.is_grad_enabled() and calls == call:
            os.kill(os.getpid(), signal.SIGINT)

    module.register_forward_hook(press)


@pytest.mark.parametrize("step", STEPS)
def test_a_resumed_run_with_accumulation_and_a_scheduler_equals_a_whole_one(tmp_path: Path, step: str) -> None:
    options: dict[str, Any] = {
        "batch_size": 4,
        "dev": make_data(10),
        "arguments": {
            "gradient_accumulation_steps": 2,
            "lr_scheduler_type": "cosine_with_restarts",
            "lr_scheduler_kwargs": {"num_cycles": 3},
            "logging_steps": 3,
            "max_grad_norm": 0.5,
        },
    }
    expected, weights = train(step, run_dir=tmp_path / "whole", **options)
    model = make_model()
    interrupt_at(model.heads[0] if step == "distil" else model.layers[0], 21)  # within step 11 of 16
    with pytest.raises(KeyboardInterrupt, match="resume=True"):
        train(step, model=model, run_dir=tmp_path / "run", **options)
    assert (tmp_path / "run" / "checkpoint-11").exists()
    resumed = make_model()
    torch.manual_seed(99)
    result, _ = train(step, model=resumed, run_dir=tmp_path / "run", resume=True, **options)
    assert changed(weights, resumed) == set()
    assert result.losses == pytest.approx(expected.losses, rel=1e-6) and result.best_epoch == expected.best_epoch
    with pytest.raises(ValueError, match="gradient_accumulation_steps 2 there and 4 now"):
        again = options | {"arguments": options["arguments"] | {"gradient_accumulation_steps": 4}}
        train(step, run_dir=tmp_path / "run", resume=True, **again)


def test_a_callback_with_a_state_gets_it_back(tmp_path: Path) -> None:
    """The first epoch is the best; what stops after two worse ones has to know of the one before the interruption."""
    options: dict[str, Any] = {"dev": make_data(10), "epochs": 9, "learning_rate": 1e-7}

    def stopping() -> list[TrainerCallback]:
        return [EarlyStoppingCallback(early_stopping_patience=3)]

    expected, weights = train("fine_tune", run_dir=tmp_path / "whole", callbacks=stopping(), **options)
    assert expected.steps == 32, "one epoch, and three that are no better"
    model = make_model()
    interrupt_at(model.layers[0], 20)
    with pytest.raises(KeyboardInterrupt):
        train("fine_tune", model=model, run_dir=tmp_path / "run", callbacks=stopping(), **options)
    with pytest.raises(ValueError, match="callbacks .*EarlyStoppingCallback.* there and .. now"):
        train("fine_tune", run_dir=tmp_path / "run", resume=True, **options)
    result, found = train("fine_tune", run_dir=tmp_path / "run", resume=True, callbacks=stopping(), **options)
    assert result.steps == 32 and all(torch.equal(found[name], value) for name, value in weights.items())


def test_reports_go_where_they_are_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Witness] = []

    class Report(Witness):
        def __init__(self) -> None:
            super().__init__()
            reports.append(self)

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mine", Report)
    result, _ = train("fine_tune", run_dir=tmp_path, arguments={"report_to": ["mine", "tensorboard"]})
    assert [report.losses for report in reports] == [result.losses]
    events = list((tmp_path / "tensorboard").glob("events*")) if (tmp_path / "tensorboard").exists() else []
    assert len(events) <= 1, "TensorBoard's files are written once"
    train("fine_tune", run_dir=tmp_path, resume=True, arguments={"report_to": "none"})
    with pytest.raises(ValueError, match="needs a run_dir"):
        train("fine_tune", arguments={"report_to": "tensorboard"})


def test_losses_of_epochs_are_right_however_often_they_are_logged() -> None:
    expected, _ = train("fine_tune")
    witness = Witness()
    result, _ = train("fine_tune", arguments={"logging_steps": 3}, callbacks=[witness])
    assert len(witness.losses) == 7  # steps 3, 6, 8, 9, 12, 15, 16
    assert result.losses == pytest.approx(expected.losses, rel=1e-6)


def test_workers_load_the_same_batches() -> None:
    _, expected = train("distil", dropout=0.1)
    _, found = train("distil", dropout=0.1, arguments={"dataloader_num_workers": 2})
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rat": 1.0}, "has no 'learning_rat'; did you mean 'learning_rate'?"),
        ({"learning_rate": 1.0}, "'learning_rate' cannot be passed on: it is the setting learning_rate"),
        ({"num_train_epochs": 1}, "it is the setting epochs"),
        ({"warmup_steps": 3}, "it is the setting warmup_fraction"),
        ({"output_dir": "x"}, "it is the argument run_dir"),
        ({"resume_from_checkpoint": "x"}, "resume=True finds the checkpoint"),
        ({"save_strategy": "steps"}, "every epoch ends with"),
        ({"eval_strategy": "no"}, "every epoch ends with"),
        ({"remove_unused_columns": True}, "which samples share a batch"),
        ({"ignore_data_skip": True}, "a resumed run has to see the batches"),
        ({"push_to_hub": True}, "upload the finished one"),
        ({"deepspeed": "x"}, "every device has the whole model"),
        ({"do_train": True}, "no effect"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be an integer of at least 1, got 0"),
        ({"gradient_accumulation_steps": 2.0}, "at least 1, got 2.0"),
        ({"lr_scheduler_type": "linea"}, "lr_scheduler_type must be one of linear, .*, got 'linea'"),
    ],
)
def test_arguments_that_a_step_decides_are_refused(arguments: dict[str, Any], message: str) -> None:
    for settings in (LabelSettings, DistillationSettings):
        with pytest.raises(ValueError, match=message.replace("?", r"\?")):
            settings(arguments=arguments)


def test_arguments_of_the_backbone_are_refused_where_it_is_frozen() -> None:
    LabelSettings(arguments={"gradient_checkpointing": True})
    with pytest.raises(ValueError, match="gradient_checkpointing is for steps that train the backbone"):
        DistillationSettings(arguments={"gradient_checkpointing": True})

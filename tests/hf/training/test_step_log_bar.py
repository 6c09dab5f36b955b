"""The line above a terminal's bar for every epoch of training."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from fastbert_hf.training import FINE_TUNING
from fastbert_hf.training.step_log import _Bar, _in_words, _Lines


class Written:
    """A bar that keeps what is written above it."""

    def __init__(self):
        self.lines = []

    def write(self, line, file):
        self.lines.append(line)


def bar(has_dev):
    made = _Bar(_Lines("fine-tuning", replace(FINE_TUNING, epochs=2), 4, has_dev))
    made.training_bar = Written()
    return made


def state_at(step, **entry):
    state = TrainerState(global_step=step, max_steps=8, is_world_process_zero=True)
    state.log_history = [{"epoch": step / 4, "step": step, **entry}]
    return state


@pytest.fixture
def arguments(tmp_path):
    return TrainingArguments(output_dir=str(tmp_path))


def test_an_epoch_without_dev_data_ends_with_its_loss(arguments):
    told = bar(has_dev=False)
    told.on_log(arguments, state_at(3, loss=0.6), TrainerControl(), logs={"loss": 0.6})
    assert told.training_bar.lines == []  # within an epoch
    told.on_log(arguments, state_at(4, loss=0.5), TrainerControl(), logs={"grad_norm": 1.0})
    assert told.training_bar.lines == []  # no loss
    told.on_log(arguments, state_at(4, loss=0.5), TrainerControl(), logs={"loss": 0.5})
    assert told.training_bar.lines == ["fine-tuning, epoch 1 of 2: loss 0.5000"]


def test_an_epoch_with_dev_data_ends_with_its_scores(arguments):
    told = bar(has_dev=True)
    told.on_log(arguments, state_at(4, loss=0.5), TrainerControl(), logs={"loss": 0.5})
    assert told.training_bar.lines == []  # the scores are still to come
    state = state_at(4, loss=0.5, eval_accuracy=0.75, eval_loss=0.4)
    told.on_evaluate(arguments, state, TrainerControl())
    (line,) = told.training_bar.lines
    assert line.startswith("fine-tuning, epoch 1 of 2: loss 0.5000")


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (99, "99 s"), (720, "12 min"), (5990, "100 min"), (12600, "3.5 h")]
)
def test_times_in_words(seconds, words):
    assert _in_words(seconds) == words

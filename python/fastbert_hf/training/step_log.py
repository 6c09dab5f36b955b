"""How a training step goes, for people: a bar on a terminal, and plain lines, which a file can hold."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState, TrainingArguments

from fastbert_hf.training.run_folder import epoch_metrics
from fastbert_hf.training.settings import TrainingSettings
from fastbert_hf.training.trainer import StepTrainer

_LINES = 20  # in a step of training, beside those of its epochs
_MOST_STEPS = 100  # between two lines
_SCORES = {"accuracy": "{:.2%}", "macro_f1": "{:.4f}"}


def show_progress(
    trainer: StepTrainer,
    settings: TrainingSettings,
    steps_per_epoch: int,
    *,
    has_dev: bool,
    score_to_beat: float,
    quiet: bool,
) -> None:
    """Replace what Trainer shows: its bars leave a file full of control characters, and its log is dictionaries.

    In a notebook, its table stays.

    Args:
        trainer: before it trains.
        settings: of the step.
        steps_per_epoch: optimiser steps in a pass over the data.
        has_dev: every epoch is scored.
        score_to_beat: of an earlier run.
        quiet: show nothing.
    """
    shown = [trainer.pop_callback(kind) for kind in (PrinterCallback, ProgressCallback)]
    if quiet or not any(shown):
        return
    lines = _Lines(trainer.title, settings, steps_per_epoch, has_dev, score_to_beat)
    plain = trainer.args.disable_tqdm or not sys.stderr.isatty()
    trainer.add_callback(_Plain(lines) if plain else _Bar(lines))


class _Lines:
    """What there is to say."""

    def __init__(
        self,
        title: str,
        settings: TrainingSettings,
        steps_per_epoch: int,
        has_dev: bool,
        score_to_beat: float = -math.inf,
    ) -> None:
        self._title = title
        self._has_dev = has_dev
        self._epochs = f"{settings.epochs:g}"
        self._best_by = f"dev_{settings.best_by}"
        self._score_to_beat = score_to_beat
        self._steps_per_epoch = steps_per_epoch

    def of_steps(self, state: TrainerState, seconds: float) -> str:
        """Return how far the step is, `seconds` being those of an optimiser step."""
        epoch = -(-state.global_step // self._steps_per_epoch)
        left = seconds * (state.max_steps - state.global_step)
        pace = f"{seconds:.2g} s per step, {_in_words(left)} left"
        return f"{self._title}: {state.global_step:,} of {state.max_steps:,} steps (epoch {epoch}), {pace}"

    def of_epoch(self, state: TrainerState) -> str:
        """Return how the last epoch ended."""
        *before, last = epoch_metrics(state.log_history, self._steps_per_epoch)
        parts = [f"loss {last['loss']:.4f}"] if "loss" in last else []
        several = [name for name in last if name.startswith("dev_accuracy_layer_")]
        if several:
            if "dev_accuracy_teacher" in last:
                parts.append(f"dev accuracy: teacher {last['dev_accuracy_teacher']:.2%}")
            layers = [f"layer {name.rpartition('_')[2]} {last[name]:.2%}" for name in several]
            parts.append(f"{'students' if len(parts) > 1 else 'dev accuracy'}: {', '.join(layers)}")
        else:
            parts += [
                f"dev {name.replace('_f1', ' F1')} {form.format(last[f'dev_{name}'])}"
                for name, form in _SCORES.items()
                if f"dev_{name}" in last
            ]
        score = last.get(self._best_by)
        rivals = [self._score_to_beat, *(epoch.get(self._best_by, 0.0) for epoch in before)]
        if score is not None and score > max(rivals):
            parts.append("best so far")
        return f"{self._title}, epoch {last['epoch']} of {self._epochs}: {'; '.join(parts)}"

    def is_whole(self, state: TrainerState, scored: bool) -> bool:
        """Return True if the last epoch has all that is to be said of it, being scored or not."""
        ended = state.global_step % self._steps_per_epoch == 0 or state.global_step == state.max_steps
        return ended and scored == self._has_dev


class _Plain(TrainerCallback):
    """Lines on stderr, some for steps and one for every epoch."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines
        self._begin = time.perf_counter()
        self._first = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._begin, self._first = time.perf_counter(), state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        every = max(1, min(state.max_steps // _LINES, _MOST_STEPS))
        if state.is_world_process_zero and state.global_step % every == 0 and state.global_step < state.max_steps:
            seconds = (time.perf_counter() - self._begin) / (state.global_step - self._first)
            self._tell(self._lines.of_steps(state, seconds))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and "loss" in (logs or {}) and self._lines.is_whole(state, scored=False):
            self._tell(self._lines.of_epoch(state))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self._lines.is_whole(state, scored=True):
            self._tell(self._lines.of_epoch(state))

    def _tell(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class _Bar(ProgressCallback):
    """Trainer's bar, with a line above it for every epoch."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any
    ) -> None:
        if "loss" in (logs or {}) and self._lines.is_whole(state, scored=False):
            self._tell(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        super().on_evaluate(args, state, control, **kwargs)
        if self._lines.is_whole(state, scored=True):
            self._tell(state)

    def _tell(self, state: TrainerState) -> None:
        if state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(self._lines.of_epoch(state), file=sys.stderr)


def _in_words(seconds: float) -> str:
    """Return a time as "40 s", "12 min" or "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

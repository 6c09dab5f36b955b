"""Ctrl-C that ends a run with a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class CheckpointOnInterrupt(TrainerCallback):
    """The first Ctrl-C asks for a checkpoint after the current step, and for the end; the second ends at once.

    Args:
        steps_per_epoch: optimiser steps in a pass over the data.
    """

    def __init__(self, steps_per_epoch: int) -> None:
        self.requested = False
        self._steps_per_epoch = steps_per_epoch

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Catch Ctrl-C within the block, unless it is not Python's to catch (another handler, or another thread)."""
        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        ):
            yield
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, *_: Any) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nStopping with a checkpoint after this step; Ctrl-C again stops at once.", file=sys.stderr, flush=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.requested:
            control.should_log = control.should_save = control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        # Trainer takes every end of its loop for the end of an epoch. A score in the middle of one could become the
        # best, which an uninterrupted run would not have seen.
        if self.requested and state.global_step < state.max_steps and state.global_step % self._steps_per_epoch:
            control.should_log = control.should_evaluate = control.should_save = False
        return control

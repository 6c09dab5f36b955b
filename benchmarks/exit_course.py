"""How accuracy and FLOPs move while students learn (Liu et al. 2020, figure 6)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.calibration import ExitRule, record_exits, simulate
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.files import write_atomically


class ExitCourse(TrainerCallback):
    """Looks at the exits before the first step and after every epoch; changes nothing of the training.

    Args:
        model: that is trained.
        dataset: labelled texts that it is not trained on.
        speed: for all layers.
        file: to keep the points in, with which a resumed training goes on.

    Attributes:
        points: for each look `epoch`, `accuracy`, `mean_exit_layer` and `flops_speedup` (paper's convention).
    """

    def __init__(
        self, model: FastBertForSequenceClassification, dataset: TokenisedDataset, speed: float, file: Path
    ) -> None:
        self._model, self._dataset, self._speed, self._file = model, dataset, speed, file
        self.points: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Look at the fresh students; of a resumed training, take what was seen up to its last whole epoch."""
        if state.global_step == 0:
            self._look(0.0)
            return
        # An interrupted training has also looked where it ended, in the middle of an epoch.
        seen, last = json.loads(self._file.read_text(encoding="utf-8")), state.epoch or 0
        ended = state.global_step == state.max_steps
        self.points = [point for point in seen if point["epoch"] <= (last if ended else math.floor(last))]

    def on_epoch_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Look at what the epoch has made of them."""
        self._look(float(state.epoch or 0))

    def _look(self, epoch: float) -> None:
        records = record_exits(self._model, self._dataset)
        found = simulate(records, ExitRule.one_speed(records.student_layers, self._speed))
        self.points.append(
            {
                "epoch": epoch,
                "accuracy": found.accuracy,
                "mean_exit_layer": found.mean_exit_layer,
                "flops_speedup": found.flops_speedup,
            }
        )
        write_atomically(self._file, json.dumps(self.points) + "\n")

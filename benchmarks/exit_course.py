"""How accuracy and FLOPs move while students learn (Liu et al. 2020, figure 6)."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerState

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.calibration import ExitRule, record_exits, simulate
from fastbert_hf.data import TokenisedDataset


class ExitCourse(TrainerCallback):
    """Looks at the exits before the first step and after every epoch; changes nothing of the training.

    Args:
        model: that is trained.
        dataset: labelled texts that it is not trained on.
        speed: for all layers.

    Attributes:
        points: for each look `epoch`, `accuracy`, `mean_exit_layer` and `flops_speedup` (paper's convention).
    """

    def __init__(self, model: FastBertForSequenceClassification, dataset: TokenisedDataset, speed: float) -> None:
        self._model, self._dataset, self._speed = model, dataset, speed
        self.points: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Look at the fresh students."""
        self._look(0.0)

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

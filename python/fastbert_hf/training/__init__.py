"""Training: fine-tune the backbone and the teacher classifier, then distill the student classifiers.

`fine_tune` and `distill` are the two steps, `train_jointly` is the ablation that does without the second; the third of
the paper's steps, adaptive inference, needs no training. `fine_tune_in_rounds` repeats the first while the score on dev
data rises. All run on `transformers.Trainer`. `distill_exit_zero` adds a student before the first layer, which no
gradient step trains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastbert_hf.deferred import deferred_names
from fastbert_hf.training.schedule import Schedule, schedule_for
from fastbert_hf.training.settings import (
    DISTILLATION,
    FINE_TUNING,
    JOINT_TRAINING,
    DistillationSettings,
    LabelSettings,
    TrainingSettings,
)

if TYPE_CHECKING:
    from fastbert_hf.training.distillation import DistillationTrainer, distill
    from fastbert_hf.training.evaluation import EvaluationResult, evaluate
    from fastbert_hf.training.exit_zero import ExitZeroResult, distill_exit_zero
    from fastbert_hf.training.fine_tuning import FineTuningTrainer, fine_tune
    from fastbert_hf.training.joint import JointTrainer, train_jointly
    from fastbert_hf.training.objectives import distillation_loss, label_loss
    from fastbert_hf.training.rounds import StillRising, fine_tune_in_rounds
    from fastbert_hf.training.running import RunOptions, TrainingResult
else:  # not for type checkers, which would take any name for one that is there
    __getattr__, __dir__ = deferred_names(
        __name__,
        {
            "distillation": ("DistillationTrainer", "distill"),
            "exit_zero": ("ExitZeroResult", "distill_exit_zero"),
            "evaluation": ("EvaluationResult", "evaluate"),
            "fine_tuning": ("FineTuningTrainer", "fine_tune"),
            "joint": ("JointTrainer", "train_jointly"),
            "objectives": ("distillation_loss", "label_loss"),
            "rounds": ("StillRising", "fine_tune_in_rounds"),
            "running": ("RunOptions", "TrainingResult"),
        },
    )

__all__ = [
    "DISTILLATION",
    "FINE_TUNING",
    "JOINT_TRAINING",
    "DistillationSettings",
    "DistillationTrainer",
    "EvaluationResult",
    "ExitZeroResult",
    "FineTuningTrainer",
    "JointTrainer",
    "LabelSettings",
    "RunOptions",
    "Schedule",
    "StillRising",
    "TrainingResult",
    "TrainingSettings",
    "distill",
    "distill_exit_zero",
    "distillation_loss",
    "evaluate",
    "fine_tune",
    "fine_tune_in_rounds",
    "label_loss",
    "schedule_for",
    "train_jointly",
]

"""The ablation "no self-distillation": all exit heads learn from labels together with the backbone."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase
from typing_extensions import Unpack

from fastbert_hf.data import ClassificationData
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training.checks import check_labelled
from fastbert_hf.training.running import RunOptions, TrainingResult, run_on_labels
from fastbert_hf.training.settings import JOINT_TRAINING, LabelSettings
from fastbert_hf.training.trainer import LabelTrainer


def train_jointly(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    settings: LabelSettings = JOINT_TRAINING,
    **run: Unpack[RunOptions],
) -> TrainingResult:
    """Train the backbone and all exit heads on labels, cross-entropies summed: an ablation (Liu et al. 2020, table 3).

    It takes the place of both steps. Arguments and errors as in `fine_tune`; scores on `dev` are means over all heads.
    """
    check_labelled(model, data, settings, run.get("dev"))
    if model.exit_zero is not None:
        raise ValueError(
            "exit zero does not learn with the other heads: train jointly without 0 in exit_layers, then distill it "
            "(distill_exit_zero)"
        )
    return run_on_labels(JointTrainer, model, [model.backbone, model.heads], tokenizer, data, settings, **run)


class JointTrainer(LabelTrainer):
    """Trains on the summed cross-entropy of all exit heads."""

    step_name = "train_jointly"
    title = "joint training"

    def loss_and_logits(
        self, model: FastBertForSequenceClassification, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As in the base class, of all exit heads."""
        texts = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**texts, output_all_exits=True)["all_logits"]
        return self.loss_of(logits, inputs["labels"]), logits

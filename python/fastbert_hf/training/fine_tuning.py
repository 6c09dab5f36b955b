"""Step 1: fine-tune the backbone and the teacher classifier on labels."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase
from typing_extensions import Unpack

from fastbert_hf.data import ClassificationData
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training.checks import check_labelled
from fastbert_hf.training.running import RunOptions, TrainingResult, run_on_labels
from fastbert_hf.training.settings import FINE_TUNING, LabelSettings
from fastbert_hf.training.trainer import LabelTrainer


def fine_tune(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    settings: LabelSettings = FINE_TUNING,
    **run: Unpack[RunOptions],
) -> TrainingResult:
    """Fine-tune backbone and teacher classifier on labels: step 1 (Liu et al. 2020, section 3.2.2), cross-entropy.

    The student classifiers are neither run nor changed, nor is any parameter with `requires_grad=False`, so that a part
    of the backbone can be kept as it is. Multi-label models take the mean binary cross-entropy. Afterwards the model is
    in eval mode, and every parameter requires gradients or not as before. Runs on the accelerator if there is one, and
    on several devices under `accelerate launch` or `torchrun`, where every process makes the same call.

    Args:
        model: changed in place.
        tokenizer: the backbone's.
        data: labelled texts; its classes must be those of the model.
        settings: see `LabelSettings`.
        **run: `dev`, `run_dir`, `resume` and `callbacks`; see `RunOptions`.

    Raises:
        ValueError: no data; other classes than the model has; class weights for other classes than the data has, or
            that the data does not decide; `run_dir` holds a run and `resume` is not given, or another run; a batch size
            that the devices cannot share; everything is frozen; weights that are not finite in the end.
        RuntimeError: the checkpoint to go on from has not the model's parameters.
        KeyboardInterrupt: after Ctrl-C.
    """
    check_labelled(model, data, settings, run.get("dev"))
    # The students have no part in the loss; an optimiser or several processes need not wait for them.
    parts = [model.backbone, model.teacher_classifier]
    return run_on_labels(FineTuningTrainer, model, parts, tokenizer, data, settings, **run)


class FineTuningTrainer(LabelTrainer):
    """Trains on the cross-entropy of the teacher classifier."""

    step_name = "fine_tune"
    title = "step 1"

    @staticmethod
    def scored_layers(model: FastBertForSequenceClassification) -> list[int]:
        """Return the last layer."""
        return model.config.exit_layers[-1:]

    def loss_and_logits(
        self, model: FastBertForSequenceClassification, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss and logits as the base class says."""
        labels = inputs["labels"]
        texts = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**texts)["logits"][:, None]
        return self.loss_of(logits, labels), logits

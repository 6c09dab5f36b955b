"""Step 1: fine-tune the backbone and the teacher classifier on labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from fastbert_hf.data import ClassificationData
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training.checks import check_dev, check_labels, check_texts
from fastbert_hf.training.freezing import training_only
from fastbert_hf.training.objectives import label_loss
from fastbert_hf.training.running import TrainingResult, run_step
from fastbert_hf.training.settings import FINE_TUNING, LabelSettings
from fastbert_hf.training.trainer import StepTrainer


def fine_tune(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    settings: LabelSettings = FINE_TUNING,
    *,
    dev: ClassificationData | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
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
        dev: labelled texts to score after every epoch. At the end the model has the weights of the epoch with the best
            score; without `dev`, those of the last epoch.
        run_dir: folder for the run: `run.json` (settings with seed, configuration, data, versions, machine),
            `metrics.jsonl` (one line per epoch), `tensorboard/` where TensorBoard is installed, and a checkpoint after
            every epoch that `from_pretrained` can load. Ctrl-C writes one after the current step (with several
            processes, the last epoch's stays). `None` keeps nothing.
        resume: go on from the newest checkpoint of `run_dir` (from the beginning if it has none yet), with the same
            result as an uninterrupted run. All other arguments must be those of that run, except what only watches it
            (`settings.keep_checkpoints`, `report_to` and the like).
        callbacks: of `transformers`, called as by its `Trainer`. Those that save their state (`ExportableState`, as
            `EarlyStoppingCallback` does) get it back in a resumed run.

    Raises:
        ValueError: no data; other classes than the model has; `run_dir` holds a run and `resume` is not given, or
            another run; a batch size that the devices cannot share; everything is frozen; weights that are not finite
            in the end.
        RuntimeError: the checkpoint to go on from has not the model's parameters.
        KeyboardInterrupt: after Ctrl-C.
    """
    check_texts(data)
    check_labels(model, data)
    check_dev(model, data, dev)
    # The students have no part in the loss; an optimiser or several processes need not wait for them.
    with training_only(model, [model.backbone, model.teacher_classifier]) as frozen:
        return run_step(
            FineTuningTrainer,
            model,
            tokenizer,
            data,
            settings,
            dev=dev,
            run_dir=run_dir,
            resume=resume,
            callbacks=callbacks,
            frozen=frozen,
        )


class FineTuningTrainer(StepTrainer):
    """Trains on the cross-entropy of the teacher classifier."""

    step_name = "fine_tune"

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
        loss = label_loss(logits, labels, multi_label=self.multi_label, label_smoothing=self.settings.label_smoothing)
        return loss, logits

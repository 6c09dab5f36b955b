"""Training in two steps: fine-tune the backbone and the teacher classifier, then distil the student classifiers.

Both steps run on `transformers.Trainer`, on the accelerator if there is one.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.modeling import FastBertForSequenceClassification


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one training step.

    Attributes:
        epochs: passes over the data.
        learning_rate: highest learning rate of AdamW; it rises over the warm-up, then falls linearly and would be 0
            one step after the last.
        batch_size: samples per step; the last batch of an epoch may be smaller and is used too.
        warmup_fraction: part of all steps that the warm-up takes.
        weight_decay: of AdamW, on weights only, not on biases and LayerNorm.
        seed: of shuffling and dropout. The fresh exit heads are drawn earlier, by `from_backbone`, from the global
            generator.
        precision: `"bf16"` computes in bfloat16 under autocast; weights and optimiser stay float32.
        max_length: samples are cut off at this many tokens.
    """

    epochs: float = 3
    learning_rate: float = 5e-5
    batch_size: int = 32
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    seed: int = 42
    precision: Literal["fp32", "bf16"] = "fp32"
    max_length: int = 128


# Texts of similar length share a batch, which saves most of the padding. Transformers renamed the setting between 5.0
# and 5.17.
_GROUP_BY_LENGTH: dict[str, Any] = (
    {"train_sampling_strategy": "group_by_length"}
    if "train_sampling_strategy" in TrainingArguments.__dataclass_fields__
    else {"group_by_length": True}
)

FINE_TUNING = TrainingSettings()
# Only small, fresh heads train here, which want larger steps than pretrained layers.
DISTILLATION = TrainingSettings(epochs=5, learning_rate=1e-3)


@dataclass(frozen=True)
class TrainingResult:
    """What a training step reports.

    Attributes:
        losses: mean training loss of every epoch.
        steps: optimiser steps taken.
        seconds: wall-clock time.
    """

    losses: list[float]
    steps: int
    seconds: float


@dataclass(frozen=True)
class EvaluationResult:
    """What a model does on a data set; every tensor is on the CPU, in the order of the data, for n samples.

    Attributes:
        accuracy: part of the samples whose prediction is their label.
        predictions: int64 [n], class ids.
        exit_layers: int64 [n], in 1..L.
        uncertainties: float32 [n], at the exit.
    """

    accuracy: float
    predictions: torch.Tensor
    exit_layers: torch.Tensor
    uncertainties: torch.Tensor


def fine_tune(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    settings: TrainingSettings = FINE_TUNING,
    checkpoint_dir: str | None = None,
) -> TrainingResult:
    """Step 1 (Liu et al. 2020, section 3.2.2): backbone and teacher classifier, cross-entropy on the labels.

    The student classifiers are neither run nor changed. Afterwards the model is in eval mode and not frozen.

    Args:
        model: changed in place.
        tokenizer: the backbone's.
        data: labelled texts; its classes must be those of the model.
        settings: see `TrainingSettings`.
        checkpoint_dir: folder for a checkpoint after every epoch; `None` writes none.

    Raises:
        ValueError: no data, or another number of classes than the model has.
    """
    _check_data(model, data)
    model.unfreeze()
    return _run(Trainer, model, TokenisedDataset(data, tokenizer, settings.max_length), settings, checkpoint_dir)


def distil(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    settings: TrainingSettings = DISTILLATION,
    checkpoint_dir: str | None = None,
) -> TrainingResult:
    """Step 2 (Liu et al. 2020, section 3.2.3): student classifiers from the teacher classifier, labels not used.

    The loss is the sum over the students of KL(teacher || student), which is what the authors' code computes; the
    paper writes KL(student || teacher). Backbone and teacher classifier are frozen and in eval mode throughout, so
    that the teacher's signal carries no dropout, and the backbone runs once per batch without autograd.

    Arguments as in `fine_tune`. Afterwards the model is in eval mode and frozen or not as it was before.

    Raises:
        ValueError: no data, another number of classes than the model has, or a model of one layer (no student).
    """
    _check_data(model, data)
    if len(model.student_classifiers) == 0:
        raise ValueError("a model with one layer has no student classifier to distil")
    was_frozen = model.frozen_for_distillation
    model.freeze_for_distillation()
    try:
        dataset = TokenisedDataset(data, tokenizer, settings.max_length)
        return _run(DistillationTrainer, model, dataset, settings, checkpoint_dir)
    finally:
        if not was_frozen:
            model.unfreeze()


def distillation_loss(all_logits: torch.Tensor) -> torch.Tensor:
    """Sum over the students of KL(teacher || student), mean over the batch.

    Args:
        all_logits: float32 [B, L, N] of every exit head; the last one is the teacher, through which no gradient flows.

    Returns:
        float32 scalar.
    """
    log_p = all_logits.log_softmax(dim=-1)
    students, teacher = log_p[:, :-1], log_p[:, -1:].detach().expand_as(log_p[:, :-1])
    return functional.kl_div(students, teacher, reduction="sum", log_target=True) / all_logits.shape[0]


class DistillationTrainer(Trainer):
    """`Trainer` whose loss is `distillation_loss`; labels in a batch are ignored."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**inputs, output_all_exits=True)
        loss = distillation_loss(outputs["all_logits"])
        return (loss, outputs) if return_outputs else loss


@torch.no_grad()
def evaluate(
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    speed: float | None = None,
    batch_size: int = 32,
) -> EvaluationResult:
    """Run `model` in eval mode over `dataset`, in its order, on the device the model is on.

    Args:
        model: left in the mode it was in.
        dataset: tokenised samples with labels.
        speed: Speed for every sample; `None` for full depth.
        batch_size: samples per forward pass.

    Raises:
        ValueError: an empty data set, or Speed outside [0, 1].
    """
    if len(dataset) == 0:
        raise ValueError("nothing to evaluate: the data set is empty")
    was_training = model.training
    model.eval()
    predictions, exit_layers, uncertainties = [], [], []
    try:
        for batch in dataset.batches(batch_size):
            inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
            output = model(**inputs, speed=speed)
            predictions.append(output.logits.argmax(dim=-1).cpu())
            exit_layers.append(output.exit_layer.cpu())
            uncertainties.append(output.uncertainty.cpu())
    finally:
        model.train(was_training)
    predicted = torch.cat(predictions)
    return EvaluationResult(
        accuracy=(predicted == torch.tensor(dataset.label_ids)).double().mean().item(),
        predictions=predicted,
        exit_layers=torch.cat(exit_layers),
        uncertainties=torch.cat(uncertainties),
    )


def _check_data(model: FastBertForSequenceClassification, data: ClassificationData) -> None:
    if len(data) == 0:
        raise ValueError("nothing to train on: the data set is empty")
    if len(data.label_names) != model.num_labels:
        raise ValueError(f"the data has {len(data.label_names)} classes but the model has {model.num_labels}")


def _run(
    trainer_class: type[Trainer],
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    settings: TrainingSettings,
    checkpoint_dir: str | None,
) -> TrainingResult:
    total_steps = math.ceil(math.ceil(len(dataset) / settings.batch_size) * settings.epochs)
    # Trainer creates its output folder even when it saves nothing.
    with tempfile.TemporaryDirectory() as scratch, _forward_kept(model):
        arguments = TrainingArguments(
            output_dir=checkpoint_dir or scratch,
            save_strategy="epoch" if checkpoint_dir else "no",
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=int(total_steps * settings.warmup_fraction),
            weight_decay=settings.weight_decay,
            seed=settings.seed,
            bf16=settings.precision == "bf16",
            use_cpu=not torch.accelerator.is_available(),
            dataloader_pin_memory=torch.accelerator.is_available(),
            logging_strategy="epoch",
            report_to="none",
            disable_tqdm=False,
            **_GROUP_BY_LENGTH,
        )
        trainer = trainer_class(model=model, args=arguments, train_dataset=dataset, data_collator=dataset.collate)
        try:
            outcome = trainer.train()
        finally:
            model.eval()
    return TrainingResult(
        losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        steps=outcome.global_step,
        seconds=outcome.metrics["train_runtime"],
    )


@contextmanager
def _forward_kept(model: torch.nn.Module) -> Iterator[None]:
    """Take back what mixed-precision training leaves on the model.

    Accelerate puts an autocasting `forward` on the instance and leaves it there, so that later inference would
    silently run in bfloat16.
    """
    forward = model.__dict__.get("forward")
    try:
        yield
    finally:
        model.__dict__.pop("_original_forward", None)
        if forward is None:
            model.__dict__.pop("forward", None)
        else:
            model.__dict__["forward"] = forward

"""`transformers.Trainer` with the batches, scores and checkpoints that the steps of FastBERT's training share."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader, Subset
from transformers import EvalPrediction, Trainer, TrainingArguments

from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.outputs import predictions_of
from fastbert_hf.passages import mean_of_passages
from fastbert_hf.training.batches import EpochSampler, NumberedDataset, SetEpoch
from fastbert_hf.training.class_weights import class_weights_of
from fastbert_hf.training.evaluation import is_multi_label, labels_of_texts, scores_of
from fastbert_hf.training.objectives import label_loss


class StepTrainer(Trainer):
    """`Trainer` for one step of FastBERT's training; a subclass says what the step computes.

    Args:
        model: the FastBERT model.
        dataset: training samples.
        dev: labelled samples to score every epoch on, or `None`.
        settings: of the step.
        arguments: made from them.
    """

    step_name: ClassVar[str]
    title: ClassVar[str]  # for people
    # Whether the inputs of a training step have `sample_index`, int64 [B].
    numbers_samples: ClassVar[bool] = False

    def __init__(
        self,
        model: FastBertForSequenceClassification,
        dataset: TokenisedDataset,
        dev: TokenisedDataset | None,
        settings: Any,
        arguments: TrainingArguments,
    ) -> None:
        # Sorted by length, for little padding.
        order = [] if dev is None else torch.tensor(dev.lengths).argsort().tolist()
        super().__init__(
            model=self.trained_module(model),
            args=arguments,
            train_dataset=dataset,
            eval_dataset=None if dev is None else Subset(dev, order),
            data_collator=dataset.collate,
            compute_metrics=self._scores,
        )
        self.fastbert = model
        self.samples = dataset
        if dev is not None:
            self.dev_texts = torch.tensor(dev.text_of_sample)[order]  # of the samples as they are scored
            self.num_dev_texts = dev.num_texts
        self.settings = settings
        self.multi_label = is_multi_label(model)
        self.exit_layers = self.scored_layers(model)

    @staticmethod
    def trained_module(model: FastBertForSequenceClassification) -> torch.nn.Module:
        """Return what runs and trains, with the parameter names of `model`."""
        return model

    @staticmethod
    def scored_layers(model: FastBertForSequenceClassification) -> list[int]:
        """Return the layers of the exit heads whose logits `loss_and_logits` returns."""
        return model.config.exit_layers

    def loss_and_logits(self, model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss (mean over the batch) and logits [B, E, N] of the exit heads that are scored.

        Behind those of the scored layers may stand those of a teacher classifier that is not trained, for its scores.

        Args:
            model: the trained module, wrapped where there are several devices.
            inputs: a batch on the device.
        """
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As in `Trainer`, for training batches; with accumulation every sample of a step weighs the same.

        Trainer takes the mean of the batches of a step, of which the last of an epoch may be smaller.
        """
        loss, logits = self.loss_and_logits(model, inputs)
        even_share = self._samples_in_step / self.current_gradient_accumulation_steps
        if len(inputs["input_ids"]) != even_share:
            loss = loss * (len(inputs["input_ids"]) / even_share)
        return (loss, {"logits": logits}) if return_outputs else loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`: the batches of the next optimiser step."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        self._samples_in_step = sum(len(batch["input_ids"]) for batch in batches)
        return batches, num_items

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """As in `Trainer`."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            loss, logits = self.loss_and_logits(model, inputs)
        return loss, logits, inputs["labels"]

    def get_train_dataloader(self) -> DataLoader:
        """Return batches of similar length, of `EpochSampler`."""
        samples_per_step = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        sampler = EpochSampler(self.samples.lengths, samples_per_step, seed=self.args.seed)
        self.add_callback(SetEpoch(sampler))
        samples = NumberedDataset(self.samples) if self.numbers_samples else self.samples
        loader: DataLoader[Any] = DataLoader(
            samples,
            batch_size=self.args.train_batch_size,
            sampler=sampler,
            collate_fn=samples.collate,
            pin_memory=self.args.dataloader_pin_memory,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `Trainer`, with the configuration, so that `from_pretrained` loads every checkpoint."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.fastbert.config.save_pretrained(output_dir or str(self.args.output_dir))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # Trainer loads checkpoints with strict=False, and of what is left over it only warns.
        if load_result.missing_keys or load_result.unexpected_keys:
            raise RuntimeError(
                f"the checkpoint is not of this model: it lacks {load_result.missing_keys} and has unknown "
                f"{load_result.unexpected_keys}; go on with the versions it was written with, or in another folder"
            )

    def _scores(self, prediction: EvalPrediction) -> dict[str, float]:
        labels = labels_of_texts(torch.as_tensor(prediction.label_ids), self.dev_texts, self.num_dev_texts)
        logits = torch.as_tensor(prediction.predictions)  # [samples, E, N]
        logits = mean_of_passages(logits, self.dev_texts, self.num_dev_texts, self.multi_label)
        predicted = predictions_of(logits, self.multi_label)  # [texts, E] or [texts, E, N]
        per_head = [scores_of(head, labels, self.fastbert.num_labels) for head in predicted.unbind(dim=1)]
        trained, others = per_head[: len(self.exit_layers)], per_head[len(self.exit_layers) :]
        scores = {name: sum(head[name] for head in trained) / len(trained) for name in trained[0]}
        if len(trained) > 1:
            for layer, head in zip(self.exit_layers, trained, strict=True):
                scores |= {f"{name}_layer_{layer}": value for name, value in head.items()}
        for teacher in others:
            scores |= {f"{name}_teacher": value for name, value in teacher.items()}
        return scores


class LabelTrainer(StepTrainer):
    """Base of the steps that learn from labels.

    Args:
        *args: as in the base class.
        data: the texts of the training samples.
    """

    def __init__(self, *args: Any, data: ClassificationData) -> None:
        super().__init__(*args)
        weights = class_weights_of(self.settings, data, self.samples.label_ids)
        self._class_weights = None if weights is None else weights.to(self.args.device)

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of exit heads, summed over them, as the settings have it.

        Args:
            logits: float [B, E, N] of E heads.
            labels: as in `label_loss`.
        """
        return label_loss(
            logits,
            labels,
            multi_label=self.multi_label,
            label_smoothing=self.settings.label_smoothing,
            class_weights=self._class_weights,
        )

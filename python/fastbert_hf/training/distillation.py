"""Step 2: the student classifiers learn from the teacher classifier, on the frozen backbone."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments
from typing_extensions import Unpack

from fastbert_hf.data import TextData, TokenisedDataset
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training.checks import check_dev, check_labels, check_texts
from fastbert_hf.training.freezing import training_only
from fastbert_hf.training.frozen_states import CacheShape, FrozenStates
from fastbert_hf.training.objectives import distillation_loss, label_loss
from fastbert_hf.training.running import RunOptions, TrainingResult, run_step
from fastbert_hf.training.settings import DISTILLATION, DistillationSettings
from fastbert_hf.training.trainer import StepTrainer


def distill(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: TextData,
    settings: DistillationSettings = DISTILLATION,
    **run: Unpack[RunOptions],
) -> TrainingResult:
    """Distill the student classifiers behind encoder layers together from the teacher classifier: step 2 (Liu et al.
    2020, section 3.2.3).

    Backbone and teacher classifier are frozen and in eval mode throughout, so that the teacher's signal carries no
    dropout, and the backbone runs once per batch without autograd (with `settings.cache_dir`, once per sample in all).
    A student with `requires_grad=False` is not changed, nor is exit zero, which `distill_exit_zero` trains. Afterwards
    the model is in eval mode, and frozen or not as it was before.

    Args:
        model: changed in place.
        tokenizer: the backbone's.
        data: texts; labels are needed for hard and mixed targets only (`join_texts` adds unlabelled texts to others).
        settings: see `DistillationSettings`.
        **run: `dev`, `run_dir`, `resume` and `callbacks`; see `RunOptions`. Scores on `dev` are means over the
            students. With a cache, a resumed run equals an uninterrupted one within rounding, since the batches that
            fill the cache may differ. The `model` of callbacks is a module with the students' forward.

    Raises:
        ValueError: as in `fine_tune`; a model with one exit head (no student); no labels for hard or mixed targets; a
            cache above its limit or larger than the free disk.
        OSError: `cache_dir` cannot be written to.
        KeyboardInterrupt: after Ctrl-C.
    """
    check_texts(data)
    if settings.targets != "soft":
        check_labels(model, data, f"targets={settings.targets!r} learns from labels: the data")
    check_dev(model, data, run.get("dev"))
    students = model.layer_heads[:-1]
    if len(students) == 0:
        raise ValueError(
            "a model with one exit head behind its layers has no student classifier to distill; "
            "distill_exit_zero trains that before the first layer"
        )
    with training_only(model, [students]) as frozen:
        model.freeze_for_distillation()
        return run_step(DistillationTrainer, model, tokenizer, data, settings, frozen, **run)


class Students(nn.Module):
    """The student classifiers of a frozen model, with the whole model's parameters and names for checkpoints."""

    heads: nn.ModuleList

    def __init__(self, model: FastBertForSequenceClassification) -> None:
        super().__init__()
        for name, module in model.named_children():
            self.add_module(name, module)
        self._model = (model,)  # in a tuple, so that it does not become a module of this one

    def forward(self, hidden_states: list[torch.Tensor], attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, S, N] of the S students.

        Args:
            hidden_states: S tensors [B, L, H].
            attention_mask: [B, L], non-zero where a token is valid.
        """
        pairs = zip(self._model[0].layer_heads[:-1], hidden_states, strict=True)
        return torch.stack([head(hidden, attention_mask).float() for head, hidden in pairs], dim=1)

    def train(self, mode: bool = True) -> Students:
        """As in `nn.Module`, except that frozen parts stay in eval mode."""
        super().train(mode)
        self._model[0].train(mode)
        return self


class DistillationTrainer(StepTrainer):
    """Trains `Students` on what the frozen part computes now, or computed in the first epoch."""

    step_name = "distil"
    title = "step 2"
    numbers_samples = True

    def __init__(
        self,
        model: FastBertForSequenceClassification,
        dataset: TokenisedDataset,
        dev: TokenisedDataset | None,
        settings: DistillationSettings,
        arguments: TrainingArguments,
    ) -> None:
        super().__init__(model, dataset, dev, settings, arguments)
        self._cache: FrozenStates | None = None
        if settings.cache_dir is not None and settings.epochs > 1:  # it is written in the first epoch
            dtype = getattr(torch, settings.cache_dtype)
            shape = CacheShape(
                dataset.lengths, len(self.exit_layers), model.config.hidden_size, model.num_labels, dtype
            )
            self._cache = FrozenStates.create(shape, settings.cache_dir, settings.cache_limit_gb, self.accelerator)

    @staticmethod
    def trained_module(model: FastBertForSequenceClassification) -> nn.Module:
        """Return the students."""
        return Students(model)

    @staticmethod
    def scored_layers(model: FastBertForSequenceClassification) -> list[int]:
        """Return all but the last layer that has an exit head behind it."""
        return [layer for layer in model.config.exit_layers[:-1] if layer > 0]

    def loss_and_logits(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """As in the base class, of the students, and of the teacher behind them."""
        settings: DistillationSettings = self.settings
        hidden_states, teacher_logits = self._frozen_results(inputs)
        logits = model(hidden_states, inputs["attention_mask"])
        soft = hard = torch.zeros((), device=logits.device)
        hard_weight = {"soft": 0.0, "hard": 1.0, "mixed": settings.hard_weight}[settings.targets]
        if hard_weight < 1:
            soft = distillation_loss(
                logits,
                teacher_logits,
                objective=settings.objective,
                temperature=settings.temperature,
                multi_label=self.multi_label,
                scores=self.fastbert.config.gives_scores,
            )
        if hard_weight > 0:
            hard = label_loss(logits, inputs["labels"], multi_label=self.multi_label)
        return (1 - hard_weight) * soft + hard_weight * hard, torch.cat([logits, teacher_logits[:, None]], dim=1)

    def _frozen_results(self, inputs: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return hidden states [B, L, H] behind every student's layer, and the teacher's logits [B, N]."""
        attention_mask = inputs["attention_mask"]
        samples = None
        if self._cache is not None and "sample_index" in inputs:  # dev data has none
            samples = inputs["sample_index"].cpu()
            if self._cache.knows(samples):
                return self._cache.read(samples, attention_mask)
        texts = {name: value for name, value in inputs.items() if name not in ("labels", "sample_index")}
        with torch.no_grad(), self.accelerator.autocast():
            *hidden_states, last_hidden = self.fastbert.exit_hidden_states(**texts)
            teacher_logits = self.fastbert.teacher_classifier(last_hidden, attention_mask).float()
        if self._cache is not None and samples is not None:
            self._cache.write(samples, attention_mask, hidden_states, teacher_logits)
        return hidden_states, teacher_logits

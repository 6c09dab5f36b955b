"""What the answers of a model are trained and measured by."""

from __future__ import annotations

import torch
from torch.nn import functional

from fastbert_hf.configuration import FastBertConfig
from fastbert_hf.inputs import check_class_ids


def loss_of(config: FastBertConfig, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of a batch: cross entropy, for multi-label models of each class by itself, for models with
    one output the squared error.

    Args:
        config: of the model.
        logits: [B, N].
        labels: as in the model's `forward`.

    Raises:
        ValueError: the labels do not fit the model.
    """
    if config.gives_scores:
        if labels.shape not in (logits.shape, logits.shape[:1]) or not labels.is_floating_point():
            raise ValueError(
                f"the labels of a model with one output must be floating point [{len(logits)}] (scores), got "
                f"{labels.dtype} {list(labels.shape)}"
            )
        return functional.mse_loss(logits.flatten(), labels.float().flatten())
    if not config.multi_label:
        return functional.cross_entropy(logits, check_class_ids(labels, logits))
    if labels.shape != logits.shape or not labels.is_floating_point():
        raise ValueError(
            f"the labels of a multi-label model must be floating point {list(logits.shape)} (samples, classes), "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    return functional.binary_cross_entropy_with_logits(logits, labels.float())

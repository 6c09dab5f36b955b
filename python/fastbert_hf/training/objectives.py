"""What exit heads are trained to minimise: distance from the teacher's distribution, and from the labels.

A single-label model has one distribution over N classes per sample; a multi-label model has N Bernoulli distributions,
over whose losses the mean is taken, as in its own loss. A model with one output has a Gaussian around its score.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from fastbert_hf.training.settings import Objective


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    objective: Objective = "kl",
    temperature: float = 1.0,
    multi_label: bool = False,
    scores: bool = False,
) -> torch.Tensor:
    """Return the loss of self-distillation (Liu et al. 2020, section 3.2.3): sum over students, mean over the batch.

    The logits are divided by the temperature T and the loss is multiplied by T^2, so that the size of its gradient
    hardly depends on T.

    Args:
        student_logits: float [B, S, N] of the S student classifiers.
        teacher_logits: float [B, N]; no gradient flows through them.
        objective: see `DistillationSettings`.
        temperature: T, above 0.
        multi_label: Bernoulli distributions per class, and the mean over the classes.
        scores: N = 1: half the squared difference, which is KL either way between Gaussians of variance 1 around the
            scores, at any temperature, and has the gradient of their cross-entropy.

    Returns:
        Scalar in the dtype of the logits.
    """
    if scores:
        return (student_logits - teacher_logits.detach()[:, None]).square().sum(dim=(1, 2)).mean() / 2
    students = _log_probabilities(student_logits / temperature, multi_label)  # [B, S, distributions, outcomes]
    teacher = _log_probabilities(teacher_logits.detach() / temperature, multi_label)[:, None].expand_as(students)
    if objective == "kl":
        terms = functional.kl_div(students, teacher, reduction="none", log_target=True)
    elif objective == "reverse_kl":
        terms = functional.kl_div(teacher, students, reduction="none", log_target=True)
    else:
        terms = -teacher.exp() * students
    return terms.sum(dim=-1).mean(dim=-1).sum(dim=1).mean() * temperature**2


def label_loss(
    all_logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    multi_label: bool = False,
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the cross-entropy with the labels: sum over exit heads, mean over the batch (multi-label: and classes).

    Args:
        all_logits: float [B, E, N] of E exit heads.
        labels: int64 [B], class ids; multi-label float [B, N], 0 or 1.
        multi_label: binary cross-entropy per class.
        label_smoothing: see `LabelSettings`.
        class_weights: float [N], see `LabelSettings`; `None`: 1 for every class.

    Returns:
        Scalar in the dtype of the logits.
    """
    num_heads = all_logits.shape[1]
    if multi_label:
        targets = labels.to(all_logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        targets = targets[:, None].expand_as(all_logits)
        loss = functional.binary_cross_entropy_with_logits(all_logits, targets, pos_weight=class_weights)
        return loss * num_heads
    targets = labels[:, None].expand(-1, num_heads)
    # PyTorch's own mean divides by the weights that happen to be in the batch.
    losses = functional.cross_entropy(
        all_logits.transpose(1, 2), targets, class_weights, reduction="none", label_smoothing=label_smoothing
    )
    return losses.mean() * num_heads


def _log_probabilities(logits: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """Return log-probabilities of [..., N]: [..., 1, N] over N classes, or [..., N, 2] over yes and no for each."""
    if multi_label:
        return torch.stack([functional.logsigmoid(logits), functional.logsigmoid(-logits)], dim=-1)
    return logits.log_softmax(dim=-1).unsqueeze(-2)

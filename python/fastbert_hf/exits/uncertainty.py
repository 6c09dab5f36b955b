"""The uncertainty of a prediction, which is compared with Speed."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from fastbert_hf.exits.rule import CriterionName


def uncertainty(logits: torch.Tensor, multi_label: bool = False) -> torch.Tensor:
    """Uncertainty of a prediction, in [0, 1]: `normalised_entropy`, or `mean_binary_entropy` of a multi-label model.

    Args:
        logits: float [..., N].
        multi_label: whether every class is a decision of its own.

    Returns:
        float32 [...].
    """
    return mean_binary_entropy(logits) if multi_label else normalised_entropy(logits)


def mean_binary_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Uncertainty of independent classes: the mean over classes of the entropy of `p = sigmoid(logit)`, over log 2.

    The entropy of one class is `-(p log p + (1 - p) log (1 - p))`. A row with NaN or infinite logits has the
    uncertainty NaN.

    Args:
        logits: float [..., N], N >= 1.

    Returns:
        float32 [...], in [0, 1] or NaN.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    entropy = -(wide.sigmoid() * functional.logsigmoid(wide) + (-wide).sigmoid() * functional.logsigmoid(-wide))
    return (entropy.mean(dim=-1) / math.log(2)).clamp(0.0, 1.0).float()


def normalised_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Uncertainty `u = -sum_c p_c log p_c / log N` of `p = softmax(logits)` (Liu et al. 2020, section 3.3).

    `0 log 0` counts as 0. A row with NaN or +inf logits has the uncertainty NaN.

    Args:
        logits: float [..., N], N >= 2.

    Returns:
        float32 [...], in [0, 1] or NaN.

    Raises:
        ValueError: N < 2.
    """
    num_labels = logits.shape[-1]
    if num_labels < 2:
        raise ValueError(f"the entropy is normalised by log N, which needs N >= 2 classes, got N = {num_labels}")
    log_p = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    entropy = -(log_p.exp() * log_p.masked_fill(log_p == -math.inf, 0.0)).sum(dim=-1)
    # Rounding can push a uniform distribution just above 1; clamp leaves NaN alone.
    return (entropy / math.log(num_labels)).clamp(0.0, 1.0).float()


def uncertainty_by(logits: torch.Tensor, criterion: CriterionName, top_k: int = 2) -> torch.Tensor:
    """The uncertainty of single-label predictions that `criterion` looks at.

    Args:
        logits: float [..., N].
        criterion: "entropy" and "patience" have the normalised entropy.
        top_k: classes of "top_k_entropy"; all of them where there are fewer.

    Returns:
        float32 [...], in [0, 1]; NaN where the logits are not finite.
    """
    if criterion == "top_k_entropy":
        logits = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values
    if criterion == "confidence":
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return (1 - torch.softmax(wide, dim=-1).amax(dim=-1)).float()
    return normalised_entropy(logits)

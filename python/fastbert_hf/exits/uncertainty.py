"""The uncertainty of a prediction: what is compared with Speed, each formula once.

All take float logits [..., N] and compute at least in float32. A row with NaN or +inf logits has the uncertainty NaN.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def normalised_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return `u = -sum_c p_c log p_c / log N` of `p = softmax(logits)` (Liu et al. 2020, section 3.3).

    `0 log 0` counts as 0.

    Args:
        logits: float [..., N], N >= 2.

    Returns:
        [...], in [0, 1] or NaN; float32, for float64 logits float64.

    Raises:
        ValueError: N < 2.
    """
    num_labels = logits.shape[-1]
    if num_labels < 2:
        raise ValueError(f"the entropy is normalised by log N, which needs N >= 2 classes, got N = {num_labels}")
    log_p = torch.log_softmax(_wide(logits), dim=-1)
    entropy = -(log_p.exp() * log_p.masked_fill(log_p == -math.inf, 0.0)).sum(dim=-1)
    # Rounding can push a uniform distribution just above 1; clamp leaves NaN alone.
    return (entropy / math.log(num_labels)).clamp(0.0, 1.0)


def top_k_entropy(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Return the normalised entropy over the k most likely classes, whose probabilities are made to sum to 1.

    Args:
        logits: float [..., N], N >= 2.
        k: at least 2; of fewer classes all are taken.

    Returns:
        [...], in [0, 1] or NaN; float32, for float64 logits float64.
    """
    return normalised_entropy(logits.topk(min(k, logits.shape[-1]), dim=-1).values)


def least_confidence(logits: torch.Tensor) -> torch.Tensor:
    """Return what the largest probability lacks to 1, `1 - max_c p_c`.

    Args:
        logits: float [..., N].

    Returns:
        [...], in [0, 1] or NaN; float32, for float64 logits float64.
    """
    return 1 - torch.softmax(_wide(logits), dim=-1).amax(dim=-1)


def least_margin(logits: torch.Tensor) -> torch.Tensor:
    """Return what the margin between the two most likely classes lacks to 1, `1 - (p_1 - p_2)`.

    Args:
        logits: float [..., N], N >= 2.

    Returns:
        [...], in [0, 1] or NaN; float32, for float64 logits float64.
    """
    first, second = torch.softmax(_wide(logits), dim=-1).topk(2, dim=-1).values.unbind(dim=-1)
    return 1 - (first - second)


def mean_binary_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the uncertainty of independent classes: the mean over classes of the entropy of `p = sigmoid(logit)`, over
    log 2.

    The entropy of one class is `-(p log p + (1 - p) log (1 - p))`. Infinite logits of either sign give NaN.

    Args:
        logits: float [..., N], N >= 1.

    Returns:
        [...], in [0, 1] or NaN; float32, for float64 logits float64.
    """
    wide = _wide(logits)
    entropy = -(wide.sigmoid() * functional.logsigmoid(wide) + (-wide).sigmoid() * functional.logsigmoid(-wide))
    return (entropy.mean(dim=-1) / math.log(2)).clamp(0.0, 1.0)


def change_of_score(logits: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
    """Return how far the score of a model with one output is from that of the exit head before.

    Args:
        logits: float [..., 1].
        previous: of the head before, as `logits`; NaN for a sample, or `None` for all, where there was none.

    Returns:
        [...], at least 0, infinity where there was no head before, NaN where the score is not finite; float32, for
        float64 logits float64.
    """
    score = _wide(logits)[..., 0]
    change = torch.full_like(score, math.inf)
    if previous is not None:
        before = _wide(previous)[..., 0]
        change = torch.where(before.isfinite(), (score - before).abs(), change)
    return change.masked_fill(~score.isfinite(), math.nan)


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

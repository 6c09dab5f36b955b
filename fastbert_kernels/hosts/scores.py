"""What users read from the logits of a model that does not choose one class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scores(model: Any, logits: Tensor) -> Tensor | None:
    """Return what users read from logits [B, N] in place of the best class, or None where it is that.

    Of a multi-label model the probability of each label. Of a score s, s itself up to 1 and 1 + log(s) above it, and
    likewise for negative scores, so that equal differences are equal shares of a large score.
    """
    kind = model.config.problem_type or ("regression" if model.num_labels == 1 else None)
    if kind == "multi_label_classification":
        return logits.float().sigmoid()
    if kind == "regression":
        given = logits.float()
        return torch.where(given.abs() > 1, given.sign() * (1 + given.abs().clamp(min=1).log()), given)
    return None

"""The kinds of LayerNorm that models have: their names, and their definitions in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def standard_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """weight (x - m) / sqrt(v + eps) + bias on rows x [..., H], with mean m and v = sum of (x - m)^2 / H (Ba et al.
    2016)."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def unbiased_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """weight (x - m) / (sqrt(v) + eps) + bias on rows x [..., H], with mean m and v = sum of (x - m)^2 / (H - 1).

    The toolkit UER has it, on which the FastBERT of the paper's authors is built. H is at least 2. 16-bit rows are
    computed in float32.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    deviation, mean = torch.std_mean(wide, dim=-1, keepdim=True)
    return (weight * ((wide - mean) / (deviation + eps)) + bias).to(x.dtype)


LAYER_NORMS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "standard": standard_layer_norm,
    "unbiased": unbiased_layer_norm,
}


class LayerNorm(NamedTuple):
    """The LayerNorm of a model."""

    weight: Tensor  # [H]
    bias: Tensor  # [H]
    eps: float  # the small number of the formula
    kind: str = "standard"  # a name of LAYER_NORMS

    def __call__(self, x: Tensor) -> Tensor:
        """Compute it on rows x [..., H]."""
        return LAYER_NORMS[self.kind](x, self.weight, self.bias, self.eps)


def check_layer_norm(kind: str, hidden_size: int) -> None:
    """ValueError for an unknown kind, or one that rows of `hidden_size` elements do not have."""
    if kind not in LAYER_NORMS:
        raise ValueError(f"unknown layer_norm {kind!r}; choose one of {', '.join(LAYER_NORMS)}")
    if kind == "unbiased" and hidden_size < 2:
        raise ValueError(f"layer_norm='unbiased' divides by H - 1 and needs H >= 2, not {hidden_size}")

"""Exit heads as tensors, and what they are asked: what backends take in place of the long lists of arguments of the
ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastbert_kernels.reference import AttentiveHeadTensors


@dataclass(frozen=True)
class AttentiveHeadWeights:
    """An attentive head with folded weights, as `ops.attentive_head` takes it."""

    tensors: AttentiveHeadTensors
    narrow_activation: str = "tanh"  # behind the projection; it and the other one "tanh" or "identity"
    mlp_activation: str = "tanh"  # in front of the output layer

    @property
    def num_labels(self) -> int:
        return self.tensors.output_bias.shape[0]


@dataclass(frozen=True)
class PooledHeadWeights:
    """A pooled exit head, as `ops.pooled_exit_head` takes it."""

    weights: Sequence[Tensor]  # 1 to 3 of [out, in], of the dtype of the hidden states; H in first, N out last
    biases: Sequence[Tensor]  # of each [out], float32 (float64 for a float64 model)
    pooling: str  # "first", "mean" or "max"
    activation: str  # between the layers

    @classmethod
    def cast(
        cls, weights: Sequence[Tensor], biases: Sequence[Tensor], *, pooling: str, activation: str, dtype: torch.dtype
    ) -> PooledHeadWeights:
        """Return those of the Linear layers of a model, for hidden states of `dtype`."""
        wide = torch.promote_types(dtype, torch.float32)
        return cls(
            tuple(weight.to(dtype).contiguous() for weight in weights),
            tuple(bias.to(wide) for bias in biases),
            pooling,
            activation,
        )

    @property
    def num_labels(self) -> int:
        return self.biases[-1].shape[0]


class HeadInputs(NamedTuple):
    """A packed batch in front of an exit head, and by what it is to decide; `ops.attentive_head` has the details."""

    hidden: Tensor  # [T, H]
    cu_seqlens: Tensor  # [B + 1]
    speed: Tensor  # [B]
    history: Tensor | None  # [B, 2]
    criterion: str
    parameter: int

    @property
    def decision(self) -> dict[str, Any]:
        """Return what the native functions take by name."""
        return {"history": self.history, "criterion": self.criterion, "parameter": self.parameter}

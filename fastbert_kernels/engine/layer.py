"""One encoder layer of the BERT family on a packed batch: attention and feed-forward block, each with residual and
LayerNorm behind it (Devlin et al. 2019)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels.engine.attention import packed_attention
from fastbert_kernels.engine.attention_choice import UNMEASURED, AttentionChoice
from fastbert_kernels.engine.dtypes import TANH_GELU, precision_name
from fastbert_kernels.engine.weights import LayerWeights


class Layer(Protocol):
    """What the loop asks of a layer."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states."""

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """[T, H] in and out; cu_seqlens [B + 1] int32; max_seqlen an upper bound of the sample lengths."""


@dataclass(frozen=True)
class TorchLayer:
    """In plain PyTorch calls, for every device, dtype and activation.

    Attributes:
        weights: of the layer.
        attention: how a kernel of the attention is chosen.
    """

    weights: LayerWeights
    attention: AttentionChoice = UNMEASURED

    @classmethod
    def cast(cls, weights: LayerWeights, dtype: torch.dtype, attention: AttentionChoice = UNMEASURED) -> TorchLayer:
        """Make a layer that computes in `dtype`."""
        tensors: dict[str, Any] = {
            field.name: value.to(dtype)
            for field in dataclasses.fields(weights)
            if isinstance(value := getattr(weights, field.name), Tensor)
        }
        return cls(dataclasses.replace(weights, **tensors), attention)

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.qkv_weight.dtype

    @property
    def precision(self) -> str:
        """Of the products, as people write it."""
        name = precision_name(self.dtype, ())
        return f"{name} with {TANH_GELU}" if self.weights.approximates_gelu else name

    def attend(self, qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """Compute the attention [T, H] of query, key and value [T, 3H]; the others as of a call."""
        weights = self.weights
        return packed_attention(
            qkv, cu_seqlens, max_seqlen, weights.num_attention_heads, weights.position_bias, self.attention
        )

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """[T, H] in and out; cu_seqlens [B + 1] int32; max_seqlen an upper bound of the sample lengths."""
        weights = self.weights
        qkv = F.linear(hidden, weights.qkv_weight, weights.qkv_bias)
        context = self.attend(qkv, cu_seqlens, max_seqlen)
        attended = F.linear(context, weights.attention_output_weight, weights.attention_output_bias)
        attended = weights.attention_norm(attended + hidden)
        intermediate = weights.activation(F.linear(attended, weights.intermediate_weight, weights.intermediate_bias))
        output = F.linear(intermediate, weights.output_weight, weights.output_bias)
        return weights.output_norm(output + attended)


@dataclass(frozen=True)
class NoLayer:
    """Leaves everything as it is: the head behind it is a second one behind the layer before."""

    dtype: torch.dtype

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        return hidden

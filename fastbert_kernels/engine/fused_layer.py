"""The encoder layer for NVIDIA GPUs: library products and attention, and Triton kernels for what is between them. Its
import needs Triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels.engine.attention import packed_attention
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.weights import LayerWeights
from fastbert_kernels.triton import elementwise


@dataclass(frozen=True)
class FusedLayer(TorchLayer):
    """The same layer, with three element-wise launches instead of five.

    By count these move 6 H + 2 I elements a token instead of 10 H + 2 I: the sums in front of both LayerNorms are not
    written and read again. Biases join here and not in the products, where they would cost nothing either; so nothing
    but the product is rounded before LayerNorm.
    """

    @staticmethod
    def unsupported(dtype: torch.dtype, weights: LayerWeights) -> str | None:
        """None where the kernels take hidden states of `dtype` through such a layer, else the reason."""
        return elementwise.unsupported(dtype, weights.qkv_weight.shape[1], weights.activation_name)

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """[T, H] in and out; cu_seqlens [B + 1] int32; max_seqlen an upper bound of the sample lengths."""
        weights = self.weights
        qkv = F.linear(hidden, weights.qkv_weight, weights.qkv_bias)
        context = packed_attention(qkv, cu_seqlens, max_seqlen, weights.num_attention_heads, weights.position_bias)
        attended = elementwise.add_layer_norm_(
            F.linear(context, weights.attention_output_weight),
            weights.attention_output_bias,
            hidden,
            weights.attention_norm_weight,
            weights.attention_norm_bias,
            weights.layer_norm_eps,
            kind=weights.layer_norm,
        )
        intermediate = elementwise.bias_activation_(
            F.linear(attended, weights.intermediate_weight), weights.intermediate_bias, weights.activation_name
        )
        return elementwise.add_layer_norm_(
            F.linear(intermediate, weights.output_weight),
            weights.output_bias,
            attended,
            weights.output_norm_weight,
            weights.output_norm_bias,
            weights.layer_norm_eps,
            kind=weights.layer_norm,
        )

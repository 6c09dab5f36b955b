"""The encoder layer for NVIDIA GPUs: library products and attention, and Triton kernels for what is between them. Its
import needs Triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.weights import GELU_BY_TANH, LayerWeights
from fastbert_kernels.triton import elementwise


@dataclass(frozen=True)
class FusedLayer(TorchLayer):
    """The same layer, with three element-wise launches instead of five.

    By count these move 6 H + 2 I elements a token instead of 10 H + 2 I: the sums in front of both LayerNorms are not
    written and read again. Biases join here and not in the products, where they would cost nothing either; so nothing
    but the product is rounded before LayerNorm. GELU by tanh is a part of the product: two launches, and 6 H elements.
    """

    @staticmethod
    def unsupported(dtype: torch.dtype, weights: LayerWeights) -> str | None:
        """None where the kernels take hidden states of `dtype` through such a layer, else the reason."""
        name = "gelu" if weights.activation_name == GELU_BY_TANH else weights.activation_name
        return elementwise.unsupported(dtype, weights.qkv_weight.shape[1], name)

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """[T, H] in and out; cu_seqlens [B + 1] int32; max_seqlen an upper bound of the sample lengths."""
        weights = self.weights
        qkv = F.linear(hidden, weights.qkv_weight, weights.qkv_bias)
        context = self.attend(qkv, cu_seqlens, max_seqlen)
        attended = F.linear(context, weights.attention_output_weight)
        elementwise.add_layer_norm_(attended, weights.attention_output_bias, hidden, weights.attention_norm)
        output = F.linear(self._intermediate(attended), weights.output_weight)
        return elementwise.add_layer_norm_(output, weights.output_bias, attended, weights.output_norm)

    def _intermediate(self, attended: Tensor) -> Tensor:
        weights = self.weights
        if weights.activation_name == GELU_BY_TANH:
            return linear_gelu_by_tanh(attended, weights.intermediate_weight, weights.intermediate_bias)
        rows = F.linear(attended, weights.intermediate_weight)
        return elementwise.bias_activation_(rows, weights.intermediate_bias, weights.activation_name)


def linear_gelu_by_tanh(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute GELU(rows W^T + b) by the tanh formula, on a GPU as the epilogue of the product (cuBLASLt's).

    Args:
        rows: [T, H].
        weight: W [I, H], in the dtype of the rows.
        bias: b [I], in the dtype of the rows.

    Returns:
        [T, I].
    """
    if rows.is_cuda and rows.shape[0] > 0:
        return torch._addmm_activation(bias, rows, weight.t(), use_gelu=True)
    return F.gelu(F.linear(rows, weight, bias), approximate="tanh")  # on a CPU that function has the other formula

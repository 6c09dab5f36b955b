"""What the engine knows of a model: dataclasses of tensors that a host file fills."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LayerWeights:
    """A post-LayerNorm encoder layer of the BERT family; H hidden size, I intermediate size. Linear weights are [out,
    in]."""

    num_attention_heads: int
    layer_norm_eps: float
    activation: Callable[[Tensor], Tensor]
    activation_name: str  # as Transformers calls it; "gelu" is the one by the error function
    qkv_weight: Tensor  # [3H, H]: query, key and value in one product
    qkv_bias: Tensor  # [3H]
    attention_output_weight: Tensor  # [H, H]
    attention_output_bias: Tensor  # [H]
    attention_norm_weight: Tensor  # [H]
    attention_norm_bias: Tensor  # [H]
    intermediate_weight: Tensor  # [I, H]
    intermediate_bias: Tensor  # [I]
    output_weight: Tensor  # [H, I]
    output_bias: Tensor  # [H]
    output_norm_weight: Tensor  # [H]
    output_norm_bias: Tensor  # [H]


@dataclass(frozen=True)
class HeadWeights:
    """An attentive exit head with folded weights, in the order in which `ops.exit_head` takes them."""

    projection_weight: Tensor  # [C, H], of the dtype of the hidden states
    projection_bias: Tensor  # [C], this and the other vectors float32 (float64 for a float64 model)
    query: Tensor  # [h, C, C], it and value float32 or of the dtype of the hidden states
    query_bias: Tensor  # [h, C]
    value: Tensor  # [h * C, C]
    value_bias: Tensor  # [C]
    output_weight: Tensor  # [N, C]
    output_bias: Tensor  # [N]

    def tensors(self) -> tuple[Tensor, ...]:
        return (
            self.projection_weight,
            self.projection_bias,
            self.query,
            self.query_bias,
            self.value,
            self.value_bias,
            self.output_weight,
            self.output_bias,
        )

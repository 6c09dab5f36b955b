"""One encoder layer of the BERT family on a packed batch: attention and feed-forward block, each with residual and
LayerNorm behind it (Devlin et al. 2019)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels import backends, ops
from fastbert_kernels.engine.attention import packed_attention
from fastbert_kernels.engine.weights import EncoderLayer, LayerWeights
from fastbert_kernels.ops.encoder_layer import ACTIVATIONS
from fastbert_kernels.ops.packing import pack_linear, product_operand


def hidden_dtype(dtype: torch.dtype | None, weights: torch.dtype) -> torch.dtype:
    """Of the hidden states, where `dtype` is the precision asked for and `weights` that of the model's own weights.

    With int8 products, what lies between them is bfloat16: its rounding is small beside that of the products.
    """
    if dtype is None:
        return weights
    return torch.bfloat16 if dtype == torch.int8 else dtype


def prepare_layer(weights: LayerWeights, dtype: torch.dtype | None, backend: str) -> EncoderLayer:
    """The fastest layer there is for the device that `weights` are on.

    Args:
        weights: as the model has them. dtype: precision; None keeps that of the weights. backend: as in `patch`.

    Raises:
        ValueError: dtype int8, which only the compiled CPU kernels have.
    """
    target = hidden_dtype(dtype, weights.qkv_weight.dtype)
    device = weights.qkv_weight.device
    compiled = backends.resolve(backend, device) == "cpu"
    if compiled and target in (torch.float32, torch.bfloat16) and weights.activation_name in ACTIVATIONS:
        return CompiledLayer.pack(weights, target, "int8" if dtype == torch.int8 else None)
    if dtype == torch.int8:
        raise ValueError(
            "dtype=torch.int8 needs the compiled CPU kernels and a layer with activation "
            f"{' or '.join(ACTIVATIONS)}; here the device is {device.type} and the activation "
            f"{weights.activation_name!r}. Take torch.bfloat16 instead"
        )
    return TorchLayer.cast(weights, target)


@dataclass(frozen=True)
class CompiledLayer:
    """`ops.encoder_layer`, with packed weights."""

    dtype: torch.dtype
    tensors: tuple[Tensor, ...]
    num_attention_heads: int
    intermediate_size: int
    layer_norm_eps: float
    activation: str
    operand: str

    @classmethod
    def pack(cls, weights: LayerWeights, dtype: torch.dtype, operand: str | None) -> CompiledLayer:
        inner, width = weights.intermediate_weight.shape
        if operand is None:
            operand = product_operand(dtype, width)
            if operand != product_operand(dtype, inner):  # one of them odd
                operand = "float32"
        norms = (
            weights.attention_norm_weight,
            weights.attention_norm_bias,
            weights.output_norm_weight,
            weights.output_norm_bias,
        )
        packed = (
            pack_linear(weights.qkv_weight, weights.qkv_bias, operand),
            pack_linear(weights.attention_output_weight, weights.attention_output_bias, operand),
            pack_linear(weights.intermediate_weight, weights.intermediate_bias, operand),
            pack_linear(weights.output_weight, weights.output_bias, operand),
        )
        return cls(
            dtype,
            (*packed, torch.stack(norms).float()),
            weights.num_attention_heads,
            inner,
            weights.layer_norm_eps,
            weights.activation_name,
            operand,
        )

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        return ops.encoder_layer(
            hidden,
            cu_seqlens,
            *self.tensors,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            layer_norm_eps=self.layer_norm_eps,
            activation=self.activation,
            operand=self.operand,
        )


@dataclass(frozen=True)
class TorchLayer:
    """The same in plain PyTorch calls, for every device, dtype and activation."""

    weights: LayerWeights

    @classmethod
    def cast(cls, weights: LayerWeights, dtype: torch.dtype) -> TorchLayer:
        tensors: dict[str, Any] = {
            field.name: value.to(dtype)
            for field in dataclasses.fields(weights)
            if isinstance(value := getattr(weights, field.name), Tensor)
        }
        return cls(dataclasses.replace(weights, **tensors))

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.qkv_weight.dtype

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        weights = self.weights
        size = hidden.shape[-1:]
        qkv = F.linear(hidden, weights.qkv_weight, weights.qkv_bias)
        context = packed_attention(qkv, cu_seqlens, max_seqlen, weights.num_attention_heads)
        attended = F.linear(context, weights.attention_output_weight, weights.attention_output_bias)
        attended = F.layer_norm(
            attended + hidden, size, weights.attention_norm_weight, weights.attention_norm_bias, weights.layer_norm_eps
        )
        intermediate = weights.activation(F.linear(attended, weights.intermediate_weight, weights.intermediate_bias))
        output = F.linear(intermediate, weights.output_weight, weights.output_bias)
        return F.layer_norm(
            output + attended, size, weights.output_norm_weight, weights.output_norm_bias, weights.layer_norm_eps
        )

"""Inputs of the ops: packed batches, weights of heads and layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels.ops import AttentiveHeadTensors


def cu_seqlens_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def linear_weight(*shape: int) -> Tensor:
    """Random, scaled so that outputs are of the order of the inputs; float64."""
    return torch.randn(*shape, dtype=torch.float64) / shape[-1] ** 0.5


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same value with other tensors, also inside of lists, tuples and named tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        items = [map_tensors(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def head_tensors(hidden_size: int, narrow: int, heads: int, labels: int) -> AttentiveHeadTensors:
    """Folded weights of a random attentive head, float64."""
    return AttentiveHeadTensors(
        projection_weight=linear_weight(narrow, hidden_size),
        projection_bias=linear_weight(narrow),
        query=linear_weight(heads, narrow, narrow),
        query_bias=linear_weight(heads, narrow),
        value=linear_weight(heads * narrow, narrow),
        value_bias=linear_weight(narrow),
        output_weight=4 * linear_weight(labels, narrow),
        output_bias=linear_weight(labels),
    )


def cast_head(head: AttentiveHeadTensors, dtype: torch.dtype) -> AttentiveHeadTensors:
    """The projection weight in `dtype`, the folded rest in float32 (float64 for float64)."""
    wide = map_tensors(lambda x: x.to(torch.promote_types(dtype, torch.float32)), head)
    return wide._replace(projection_weight=head.projection_weight.to(dtype))


def attentive_head_inputs(
    lengths: list[int], hidden_size: int = 48, narrow: int = 64, heads: int = 2, labels: int = 5
) -> list[Any]:
    """Arguments of ops.attentive_head in float64 (cu_seqlens int32, speed float32)."""
    return [
        torch.randn(sum(lengths), hidden_size, dtype=torch.float64),
        cu_seqlens_of(lengths),
        torch.rand(len(lengths)),
        head_tensors(hidden_size, narrow, heads, labels),
    ]


def cast_attentive_head_inputs(inputs: list[Any], dtype: torch.dtype) -> list[Any]:
    """Hidden states and projection weight in `dtype`, the folded rest in float32 (float64 for float64), Speed in
    float32."""
    hidden, cu_seqlens, speed, head = inputs
    return [hidden.to(dtype), cu_seqlens, speed, cast_head(head, dtype)]


def layer_weights(
    hidden_size: int,
    intermediate_size: int,
    heads: int,
    activation: str = "gelu",
    layer_norm: str = "standard",
    positions: int | None = None,
):
    """Make a random encoder layer in float64, whose attention is far from uniform, and relative where there are
    `positions`."""
    from torch.nn import functional as F

    from fastbert_kernels.engine.weights import GELU_BY_TANH, LayerWeights

    def vector(size: int, around: float = 0.0) -> Tensor:
        return around + 0.1 * torch.randn(size, dtype=torch.float64)

    return LayerWeights(
        num_attention_heads=heads,
        layer_norm_eps=1e-6 if layer_norm == "unbiased" else 1e-12,
        activation={"gelu": F.gelu, "relu": F.relu, GELU_BY_TANH: partial(F.gelu, approximate="tanh")}[activation],
        activation_name=activation,
        qkv_weight=2 * linear_weight(3 * hidden_size, hidden_size),
        qkv_bias=vector(3 * hidden_size),
        attention_output_weight=linear_weight(hidden_size, hidden_size),
        attention_output_bias=vector(hidden_size),
        attention_norm_weight=vector(hidden_size, 1.0),
        attention_norm_bias=vector(hidden_size),
        intermediate_weight=linear_weight(intermediate_size, hidden_size),
        intermediate_bias=vector(intermediate_size),
        output_weight=linear_weight(hidden_size, intermediate_size),
        output_bias=vector(hidden_size),
        output_norm_weight=vector(hidden_size, 1.0),
        output_norm_bias=vector(hidden_size),
        layer_norm=layer_norm,
        position_bias=None if positions is None else torch.randn(heads, 2 * positions - 1, dtype=torch.float64),
    )


def pooled_inputs(lengths, sizes, dtype=torch.float64):
    """Arguments of ops.pooled_exit_head; `sizes` are the hidden size, the widths between and the labels."""
    weights = [2 * linear_weight(out, width).to(dtype) for width, out in itertools.pairwise(sizes)]
    biases = [linear_weight(out).to(torch.promote_types(dtype, torch.float32)) for out in sizes[1:]]
    hidden = torch.randn(sum(lengths), sizes[0], dtype=torch.float64).to(dtype)
    return [hidden, cu_seqlens_of(lengths), torch.rand(len(lengths)), weights, biases]


def compaction_inputs(lengths, keep, *, width=12, dtype=torch.float32, original=None, labels=3):
    """Arguments of ops.compact; the result tensors hold -7 everywhere."""
    size = len(lengths)
    original = 2 * size + 1 if original is None else original
    hidden = torch.randint(-100, 100, (sum(lengths), width)).to(dtype)
    return [
        hidden,
        cu_seqlens_of(lengths),
        torch.as_tensor(keep, dtype=torch.bool),
        torch.randperm(original)[:size].int(),
        torch.rand(size),
        torch.randint(-1, 5, (size, 2)).int(),
        torch.randn(size, labels),
        torch.rand(size),
        4,
        torch.full((original, labels), -7.0),
        torch.full((original,), -7.0),
        torch.full((original,), -7),
    ]

"""The encoder in one native call on a CPU: between layers nothing comes back to Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import _extension
from fastbert_kernels.engine.dtypes import PRODUCTS, precision_name
from fastbert_kernels.engine.packed import Results
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.engine.spans import Encoder, PackedState
from fastbert_kernels.engine.weights import (
    AttentiveHeadWeights,
    ExitHead,
    LayerWeights,
    PooledHeadWeights,
    teacher_classifier,
)
from fastbert_kernels.ops import AttentiveHeadTensors
from fastbert_kernels.ops.attentive_head import pack_head
from fastbert_kernels.ops.compact import empty_survivors
from fastbert_kernels.ops.packing import packed_matrix, product_operand
from fastbert_kernels.product_rates import product_rates

ACTIVATIONS = ("gelu", "relu")
DTYPES = (torch.float32, torch.bfloat16)


class CompiledEncoder(Encoder):
    """Layers and heads, packed for the compiled kernels."""

    def __init__(
        self,
        layers: Sequence[LayerWeights | None],
        heads: Sequence[ExitHead | None],
        dtype: torch.dtype,
        int8_products: Collection[str] = (),
    ) -> None:
        """
        Args:
            layers: as of `prepare_encoder`.
            heads: as of `prepare_encoder`.
            dtype: of the hidden states.
            int8_products: some of `PRODUCTS`; the others are multiplied as hidden states of `dtype` are.
        """
        self._dtype, self._num_labels = dtype, teacher_classifier(heads).num_labels
        self._depth, self._precision = len(layers), precision_name(dtype, int8_products)
        inner, width = next(layer.intermediate_weight.shape for layer in layers if layer is not None)
        self.shape: tuple[int, int] = width, inner  # hidden and intermediate size
        operand = _operand([layer for layer in layers if layer is not None], dtype)
        self._encoder = _extension.module().Encoder(
            [None if layer is None else _pack_layer(layer, operand, int8_products) for layer in layers],
            [None if head is None else _pack_head(head, dtype, operand) for head in heads],
        )

    @staticmethod
    def unsupported(dtype: torch.dtype, layer: LayerWeights, heads: Sequence[ExitHead | None]) -> str | None:
        """None where the compiled encoder runs hidden states of `dtype` through such layers and `heads`, else the
        reason."""
        if dtype not in DTYPES:
            return f"they have no {dtype} layers"
        if layer.activation_name not in ACTIVATIONS:
            return f"they have the activations {' and '.join(ACTIVATIONS)}, not {layer.activation_name!r}"
        if any(isinstance(head, AttentiveHeadWeights) and head.narrow_activation != "tanh" for head in heads):
            return "their attentive heads have tanh behind the projection, and those here have no activation"
        return None

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def precision(self) -> str:
        return self._precision

    @property
    def depth(self) -> int:
        return self._depth

    @property
    def num_labels(self) -> int:
        return self._num_labels

    @torch.compiler.disable
    def _run_span(self, state: PackedState, until: int) -> Results:
        batch, rule, size = state.batch, state.rule, len(state)
        layer_speed, asked = _layer_speeds(rule, self.depth)
        results = Results.empty(batch.hidden, size, self.num_labels)
        hidden = batch.hidden.contiguous()
        survivors = None if until == self.depth else empty_survivors(hidden, size)
        _extension.module().run_span(
            hidden,
            batch.cu_seqlens.contiguous(),
            batch.speed.contiguous(),
            None if batch.history is None else batch.history.contiguous(),
            state.layer,
            until,
            rule.criterion.value,
            rule.parameter,
            layer_speed,
            asked,
            self._encoder,
            (results.logits, results.uncertainty, results.exit_layer),
            survivors,
        )
        if survivors is not None:
            *tensors, counts = survivors
            batch.hidden, batch.cu_seqlens, batch.sample_index, batch.speed, batch.history = tensors
            batch.cut(*counts.tolist())
        return results


@lru_cache(maxsize=64)  # a single short text takes little longer than to make these
def _layer_speeds(rule: Rule, depth: int) -> tuple[Tensor, Tensor]:
    """Return the limits of the layers, [L] float32, and whether their heads are asked, [L] bool, as csrc/encoder.h
    takes them."""
    asked = [rule.asks(layer) for layer in range(1, depth + 1)]
    speeds = torch.tensor(rule.limits(depth), dtype=torch.float32, device="cpu")
    return speeds, torch.tensor(asked, dtype=torch.bool, device="cpu")


def _pack_layer(weights: LayerWeights, operand: str, int8_products: Collection[str]) -> Any:
    """Return the native layer that multiplies in `operand`, and some products in int8."""
    matrices = [
        packed_matrix(
            getattr(weights, f"{name}_weight"),
            getattr(weights, f"{name}_bias"),
            "int8" if name in int8_products else operand,
        )
        for name in PRODUCTS
    ]
    norms = (
        weights.attention_norm_weight,
        weights.attention_norm_bias,
        weights.output_norm_weight,
        weights.output_norm_bias,
    )
    return _extension.module().EncoderLayer(
        *matrices,
        torch.stack(norms).float(),
        weights.layer_norm_eps,
        weights.layer_norm,
        weights.num_attention_heads,
        weights.activation_name,
        operand,
        _position_bias(weights),
    )


def _position_bias(weights: LayerWeights) -> Tensor | None:
    """Return what is added to the scores before they are divided by the root of a head's size, [heads, 2P - 1]."""
    if weights.position_bias is None:
        return None
    head_size = weights.attention_output_weight.shape[1] // weights.num_attention_heads
    return (weights.position_bias.float() * head_size**0.5).contiguous()


def _operand(layers: Sequence[LayerWeights], dtype: torch.dtype) -> str:
    """Return what hidden states of `dtype` are multiplied in, by layers, attention and heads: the way that is fastest
    here for layers of the first one's size.

    It is settled when the weights are packed, so that no answer depends on the number of rows.
    """
    sizes = [layer.intermediate_weight.shape for layer in layers]
    if any(product_operand(dtype, depth) != "bfloat16" for size in sizes for depth in size):
        return "float32"
    inner, width = sizes[0]
    return product_rates(width, inner).bfloat16_operand


def _pack_head(head: ExitHead, dtype: torch.dtype, operand: str) -> Any:
    """Return the native head for hidden states of `dtype` that are multiplied in `operand`."""
    if isinstance(head, PooledHeadWeights):
        # What is pooled is float32, whatever the rows were.
        layers = [
            packed_matrix(weight, bias, "float32") for weight, bias in zip(head.weights, head.biases, strict=True)
        ]
        return _extension.module().PooledHead(layers, head.pooling, head.activation)
    tensors = AttentiveHeadTensors(*(tensor.contiguous() for tensor in head.tensors))
    return pack_head(dataclasses.replace(head, tensors=tensors), dtype, operand)

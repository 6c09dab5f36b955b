"""The encoder in one native call on a CPU: between layers nothing comes back to Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import _extension
from fastbert_kernels.engine.layer import PackedLayer
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.engine.weights import (
    ExitHead,
    HeadWeights,
    LayerWeights,
    PooledHeadWeights,
    teacher_classifier,
)
from fastbert_kernels.ops import library
from fastbert_kernels.ops.encoder_layer import ACTIVATIONS, DTYPES, native_weights
from fastbert_kernels.ops.packing import native_matrix, pack_linear, product_operand
from fastbert_kernels.ops.pooled_exit_head import POOLINGS


class CompiledEncoder:
    """Packed weights, and the native structs that point to them."""

    def __init__(
        self,
        layers: Sequence[LayerWeights | None],
        heads: Sequence[ExitHead | None],
        dtype: torch.dtype,
        *,
        quantised: bool,
    ) -> None:
        native = _extension.module()
        self.dtype = dtype
        self.num_labels = teacher_classifier(heads).num_labels
        packed = (None if layer is None else PackedLayer.pack(layer, dtype, quantised=quantised) for layer in layers)
        self._layers = list(packed)
        self._heads = [None if head is None else _pack_head(head, dtype) for head in heads]
        assert layers[0] is not None
        width = layers[0].qkv_weight.shape[1]
        self._weights = native.EncoderWeights(
            [
                None
                if layer is None
                else native_weights(
                    layer.tensors,
                    width,
                    layer.num_attention_heads,
                    layer.intermediate_size,
                    layer.layer_norm_eps,
                    layer.activation,
                    layer.operand,
                    layer.layer_norm,
                )
                for layer in self._layers
            ],
            [None if head is None else head.native for head in self._heads],
            self.num_labels,
        )

    @staticmethod
    def unsupported(dtype: torch.dtype, layer: LayerWeights, heads: Sequence[ExitHead | None]) -> str | None:
        """None where the compiled encoder runs hidden states of `dtype` through such layers and `heads`, else the
        reason."""
        if dtype not in DTYPES:
            return f"they have no {dtype} layers"
        if layer.activation_name not in ACTIVATIONS:
            return f"they have the activations {' and '.join(ACTIVATIONS)}, not {layer.activation_name!r}"
        if any(isinstance(head, HeadWeights) and head.narrow_activation != "tanh" for head in heads):
            return "their attentive heads have tanh behind the projection, and those here have no activation"
        return None

    @torch.compiler.disable
    def run(self, batch: PackedBatch, rule: Rule) -> Results:
        """See `engine.encoder.Encoder`."""
        rule.check_layers(len(self._layers))
        layer_speed, asked = _layer_speeds(rule, len(self._layers))
        size = batch.sample_index.shape[0]
        results = Results.empty(batch.hidden, size, self.num_labels)
        hidden, cu_seqlens, speed = library.contiguous(batch.hidden, batch.cu_seqlens, batch.speed)
        native = _extension.module()
        native.run_encoder_cpu(
            hidden.data_ptr(),
            _extension.DTYPE_CODES[hidden.dtype],
            cu_seqlens.data_ptr(),
            size,
            rule.criterion.code,
            rule.parameter,
            speed.data_ptr(),
            layer_speed.data_ptr(),
            asked.data_ptr(),
            self._weights,
            native.Results(results.logits.data_ptr(), results.uncertainty.data_ptr(), results.exit_layer.data_ptr()),
        )
        return results


@lru_cache(maxsize=64)  # a single short text takes little longer than to make these
def _layer_speeds(rule: Rule, depth: int) -> tuple[Tensor, Tensor]:
    """Return the limits of the layers, [L] float32, and whether their heads are asked, [L] uint8, as csrc/encoder.h
    takes them."""
    asked = [rule.asks(layer) for layer in range(1, depth + 1)]
    speeds = torch.tensor(rule.limits(depth), dtype=torch.float32, device="cpu")
    return speeds, torch.tensor(asked, dtype=torch.uint8, device="cpu")


@dataclass(frozen=True)
class _PackedHead:
    native: Any
    memory: list[Tensor]  # what the native struct points to


def _pack_head(head: ExitHead, dtype: torch.dtype) -> _PackedHead:
    return _pack_pooled(head) if isinstance(head, PooledHeadWeights) else _pack_attentive(head, dtype)


def _pack_attentive(head: HeadWeights, dtype: torch.dtype) -> _PackedHead:
    native = _extension.module()
    narrow, width = head.projection_weight.shape
    operand = product_operand(dtype, width)
    projection = pack_linear(head.projection_weight, head.projection_bias, operand)
    tensors = [tensor.contiguous() for tensor in head.tensors()]
    weights = native.ExitHeadWeights(
        *(tensor.data_ptr() for tensor in tensors),
        _extension.DTYPE_CODES[head.query.dtype],
        library.ACTIVATION_CODES[head.narrow_activation],
        library.ACTIVATION_CODES[head.mlp_activation],
    )
    matrix = native_matrix(projection, narrow, width, operand)
    return _PackedHead(native.AttentiveHead(matrix, weights, head.query.shape[0]), [projection, *tensors])


def _pack_pooled(head: PooledHeadWeights) -> _PackedHead:
    # What is pooled is float32, whatever the rows were.
    operand = "float32"
    packed, layers = [], []
    for weight, bias in zip(head.weights, head.biases, strict=True):
        packed.append(pack_linear(weight, bias, operand))
        outputs, depth = weight.shape
        layers.append(native_matrix(packed[-1], outputs, depth, operand))
    pooling, activation = POOLINGS.index(head.pooling), library.ACTIVATION_CODES[head.activation]
    return _PackedHead(_extension.module().PackedPooledHead(layers, pooling, activation), packed)

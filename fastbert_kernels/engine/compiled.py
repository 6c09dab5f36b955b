"""The encoder in one native call on a CPU: between layers nothing comes back to Python."""

from __future__ import annotations

from collections.abc import Sequence
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
from fastbert_kernels.ops import AttentiveHeadTensors
from fastbert_kernels.ops.encoder_layer import ACTIVATIONS, DTYPES
from fastbert_kernels.ops.exit_head import pack_head
from fastbert_kernels.ops.packing import packed_matrix


class CompiledEncoder:
    """Layers and heads, packed for the compiled kernels."""

    def __init__(
        self,
        layers: Sequence[LayerWeights | None],
        heads: Sequence[ExitHead | None],
        dtype: torch.dtype,
        *,
        quantised: bool,
    ) -> None:
        self.dtype = dtype
        self.num_labels = teacher_classifier(heads).num_labels
        self._layers = [
            None if layer is None else PackedLayer.pack(layer, dtype, quantised=quantised) for layer in layers
        ]
        self._encoder = _extension.module().Encoder(
            [None if layer is None else layer.native() for layer in self._layers],
            [None if head is None else _pack_head(head, dtype) for head in heads],
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
        _extension.module().run_encoder(
            batch.hidden.contiguous(),
            batch.cu_seqlens.contiguous(),
            batch.speed.contiguous(),
            rule.criterion.value,
            rule.parameter,
            layer_speed,
            asked,
            self._encoder,
            (results.logits, results.uncertainty, results.exit_layer),
        )
        return results


@lru_cache(maxsize=64)  # a single short text takes little longer than to make these
def _layer_speeds(rule: Rule, depth: int) -> tuple[Tensor, Tensor]:
    """Return the limits of the layers, [L] float32, and whether their heads are asked, [L] bool, as csrc/encoder.h
    takes them."""
    asked = [rule.asks(layer) for layer in range(1, depth + 1)]
    speeds = torch.tensor(rule.limits(depth), dtype=torch.float32, device="cpu")
    return speeds, torch.tensor(asked, dtype=torch.bool, device="cpu")


def _pack_head(head: ExitHead, dtype: torch.dtype) -> Any:
    """Return the native head for hidden states of `dtype`."""
    if isinstance(head, PooledHeadWeights):
        # What is pooled is float32, whatever the rows were.
        layers = [
            packed_matrix(weight, bias, "float32") for weight, bias in zip(head.weights, head.biases, strict=True)
        ]
        return _extension.module().PooledHead(layers, head.pooling, head.activation)
    tensors = AttentiveHeadTensors(*(tensor.contiguous() for tensor in head.tensors))
    return pack_head(tensors, dtype, head.narrow_activation, head.mlp_activation)

"""`fastbert_hf.FastBertForSequenceClassification`: FastBERT on a Transformers BERT."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastbert_kernels import backends
from fastbert_kernels.engine.derived import Derived
from fastbert_kernels.engine.encoder import hidden_dtype, prepare_layer
from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.engine.loop import run_encoder
from fastbert_kernels.engine.packed import PackedBatch, cumulative_lengths
from fastbert_kernels.engine.weights import EncoderLayer, EncoderWeights, HeadWeights, LayerWeights
from fastbert_kernels.hosts.base import Host


def matches(model: nn.Module) -> bool:
    # A model of this class exists only where its module was imported.
    modeling = sys.modules.get("fastbert_hf.modeling")
    return modeling is not None and isinstance(model, modeling.FastBertForSequenceClassification)


def encoder_weights(model: Any, dtype: torch.dtype | None, backend: str) -> EncoderWeights:
    config = model.config.backbone_config
    return EncoderWeights(
        layers=[_layer_weights(layer, config, dtype, backend) for layer in model.backbone.encoder.layer],
        heads=[_head_weights(head, dtype, backend) for head in model.heads],
        num_labels=model.config.num_labels,
    )


def _parameters(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str]]:
    return [(module, name) for module in modules for name in ("weight", "bias")]


def _layer_weights(layer: Any, config: Any, dtype: torch.dtype | None, backend: str) -> Derived[EncoderLayer]:
    attention = layer.attention
    parameters = _parameters(
        (
            attention.self.query,
            attention.self.key,
            attention.self.value,
            attention.output.dense,
            attention.output.LayerNorm,
            layer.intermediate.dense,
            layer.output.dense,
            layer.output.LayerNorm,
        )
    )

    def build(*tensors: Tensor) -> EncoderLayer:
        weights = LayerWeights(
            config.num_attention_heads,
            config.layer_norm_eps,
            layer.intermediate.intermediate_act_fn,
            config.hidden_act,
            torch.cat(tensors[0:6:2]),
            torch.cat(tensors[1:6:2]),
            *tensors[6:],
        )
        return prepare_layer(weights, dtype, backend)

    return Derived(parameters, build)


def _head_weights(head: Any, dtype: torch.dtype | None, backend: str) -> Derived[HeadWeights]:
    parameters = _parameters(
        (head.projection, head.query, head.key, head.value, head.attention_output, head.dense, head.classifier)
    )
    parameters.remove((head.key, "bias"))  # it drops out of the softmax

    def build(*tensors: Tensor) -> HeadWeights:
        target = hidden_dtype(dtype, tensors[0].dtype)
        compiled = backends.resolve(backend, tensors[0].device) == "cpu" and target != torch.float64
        return fold_attentive_head(*tensors, num_attention_heads=head.num_attention_heads, dtype=target, pack=compiled)

    return Derived(parameters, build)


def forward(
    model: Any,
    weights: EncoderWeights,
    backend: str,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    speed: float | Tensor | None = None,
    labels: Tensor | None = None,
    output_all_exits: bool = False,
) -> Any:
    from fastbert_hf.inputs import check_inputs, make_position_ids
    from fastbert_hf.outputs import FastBertOutput, warn_if_not_finite
    from fastbert_hf.speed import resolve_speed

    valid = check_inputs(input_ids, attention_mask, token_type_ids, model.config.max_position_embeddings)
    threshold = resolve_speed(speed, batch_size=input_ids.shape[0], device=input_ids.device)
    if output_all_exits or input_ids.shape[0] == 0:
        return NotImplemented  # nothing to gain: no sample leaves early, or there is none

    batch = _pack(model, valid, input_ids, token_type_ids, make_position_ids(valid), threshold)
    batch.hidden = batch.hidden.to(weights.layers[0].get().dtype)
    results = run_encoder(weights, batch, adaptive=threshold is not None, backend=backend)
    warn_if_not_finite(results.uncertainty)
    loss = None if labels is None else F.cross_entropy(results.logits, labels)
    return FastBertOutput(
        loss=loss, logits=results.logits, uncertainty=results.uncertainty, exit_layer=results.exit_layer
    )


def _pack(
    model: Any,
    valid: Tensor,
    input_ids: Tensor,
    token_type_ids: Tensor | None,
    position_ids: Tensor,
    threshold: Tensor | None,
) -> PackedBatch:
    """Valid tokens only, as one long row, go through the host's own embeddings (which work token by token)."""
    size, length = input_ids.shape
    rows = valid.flatten().nonzero().flatten()  # the host learns T here
    packed = [None if ids is None else ids.flatten()[rows][None] for ids in (input_ids, token_type_ids, position_ids)]
    hidden = model.backbone.embeddings(input_ids=packed[0], token_type_ids=packed[1], position_ids=packed[2])[0]
    return PackedBatch(
        hidden=hidden,
        cu_seqlens=cumulative_lengths(valid),
        sample_index=torch.arange(size, dtype=torch.int32, device=input_ids.device),
        speed=torch.zeros(size, dtype=torch.float32, device=input_ids.device) if threshold is None else threshold,
        max_seqlen=length,
    )


HOST = Host(
    name="fastbert_hf.FastBertForSequenceClassification",
    matches=matches,
    encoder_weights=encoder_weights,
    forward=forward,
)

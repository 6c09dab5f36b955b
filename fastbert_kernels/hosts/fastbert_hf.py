"""`fastbert_hf.FastBertForSequenceClassification`: FastBERT on a Transformers BERT."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastbert_kernels import ops
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.derived import Derived
from fastbert_kernels.engine.encoder import Encoder, hidden_dtype, prepare_encoder
from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.engine.packed import PackedBatch, cumulative_lengths
from fastbert_kernels.engine.weights import LayerWeights
from fastbert_kernels.hosts.base import Host


def matches(model: nn.Module) -> bool:
    # A model of this class exists only where its module was imported.
    modeling = sys.modules.get("fastbert_hf.modeling")
    return modeling is not None and isinstance(model, modeling.FastBertForSequenceClassification)


def encoder(model: Any, dtype: torch.dtype | None, backend: str) -> Derived[Encoder]:
    config = model.config.backbone_config
    layers, heads = model.backbone.encoder.layer, model.heads
    # All parameters in one list, so that one comparison tells whether any has changed.
    parts = [*map(_layer_parameters, layers), *map(head_parameters, heads)]

    def build(*tensors: Tensor) -> Encoder:
        remaining = iter(tensors)
        groups = [list(itertools.islice(remaining, len(part))) for part in parts]
        precision = hidden_dtype(dtype, tensors[0].dtype)
        return prepare_encoder(
            [_layer_weights(layer, config, group) for layer, group in zip(layers, groups[: len(layers)], strict=True)],
            [
                fold_attentive_head(*group, num_attention_heads=head.num_attention_heads, dtype=precision)
                for head, group in zip(heads, groups[len(layers) :], strict=True)
            ],
            dtype,
            backend,
        )

    return Derived(list(itertools.chain.from_iterable(parts)), build)


def _parameters(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str]]:
    return [(module, name) for module in modules for name in ("weight", "bias")]


def _layer_parameters(layer: Any) -> list[tuple[nn.Module, str]]:
    attention = layer.attention
    return _parameters(
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


def _layer_weights(layer: Any, config: Any, tensors: list[Tensor]) -> LayerWeights:
    return LayerWeights(
        config.num_attention_heads,
        config.layer_norm_eps,
        layer.intermediate.intermediate_act_fn,
        config.hidden_act,
        torch.cat(tensors[0:6:2]),
        torch.cat(tensors[1:6:2]),
        *tensors[6:],
    )


def head_parameters(head: Any) -> list[tuple[nn.Module, str]]:
    """What `fold_attentive_head` takes, in its order."""
    parameters = _parameters(
        (head.projection, head.query, head.key, head.value, head.attention_output, head.dense, head.classifier)
    )
    parameters.remove((head.key, "bias"))  # it drops out of the softmax
    return parameters


def forward(
    model: Any,
    encoder: Encoder,
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

    batch = _pack(model, encoder, valid, input_ids, token_type_ids, make_position_ids(valid), threshold)
    results = encoder.run(batch, adaptive=threshold is not None)
    warn_if_not_finite(results.uncertainty)
    loss = None if labels is None else F.cross_entropy(results.logits, labels)
    return FastBertOutput(
        loss=loss, logits=results.logits, uncertainty=results.uncertainty, exit_layer=results.exit_layer
    )


def _pack(
    model: Any,
    encoder: Encoder,
    valid: Tensor,
    input_ids: Tensor,
    token_type_ids: Tensor | None,
    position_ids: Tensor,
    threshold: Tensor | None,
) -> PackedBatch:
    """Valid tokens only, as one long row, embedded."""
    size, length = input_ids.shape
    rows = valid.flatten().nonzero().flatten()  # the host learns T here
    ids, positions = input_ids.flatten()[rows], position_ids.flatten()[rows]
    segments = None if token_type_ids is None else token_type_ids.flatten()[rows]
    own = model.backbone.embeddings
    tables = (
        own.word_embeddings.weight,
        own.position_embeddings.weight,
        own.token_type_embeddings.weight,
        own.LayerNorm.weight,
        own.LayerNorm.bias,
    )
    if isinstance(encoder, CompiledEncoder) and tables[0].dtype == torch.float32:
        hidden = ops.embed(ids, positions, segments, *tables, layer_norm_eps=own.LayerNorm.eps, dtype=encoder.dtype)
    else:  # the host's own work token by token too
        segments = segments if segments is None else segments[None]
        hidden = own(input_ids=ids[None], token_type_ids=segments, position_ids=positions[None])[0].to(encoder.dtype)
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
    encoder=encoder,
    forward=forward,
)

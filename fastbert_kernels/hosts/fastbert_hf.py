"""`fastbert_hf.FastBertForSequenceClassification`: FastBERT on a Transformers backbone."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastbert_kernels import ops
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.encoder import Encoder, hidden_dtype, prepare_encoder
from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.engine.packed import PackedBatch, cumulative_lengths
from fastbert_kernels.engine.rule import FULL_DEPTH, Rule
from fastbert_kernels.engine.weights import ExitHead, PooledHeadWeights
from fastbert_kernels.hosts.base import Host
from fastbert_kernels.hosts.bert_layers import (
    Parameters,
    activation_of,
    layer_parameters,
    layer_weights,
    linear_parameters,
)
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.guard import differences
from fastbert_kernels.hosts.structure import refuse

_PACKAGES = ("transformers.", "torch.", "fastbert_hf.")


def matches(model: nn.Module) -> bool:
    # A model of this class exists only where its module was imported.
    modeling = sys.modules.get("fastbert_hf.modeling")
    return modeling is not None and isinstance(model, modeling.FastBertForSequenceClassification)


def encoder(model: Any, dtype: torch.dtype | None, backend: str) -> Derived[Encoder]:
    own = type(model).forward
    if (own.__module__, own.__qualname__) != ("fastbert_hf.modeling", "FastBertForSequenceClassification.forward"):
        raise ValueError(f"{type(model).__name__} has a forward of its own, so it cannot be patched")
    config, layers, heads = model.config, model.layers, model.heads
    if config.multi_label:
        raise ValueError(
            "a multi-label model (problem_type='multi_label_classification') cannot be patched: the kernels decide by "
            "the entropy of one label among N; the unpatched model serves it"
        )
    # All parameters in one list, so that one comparison tells whether any has changed.
    parts = [*map(layer_parameters, layers), *map(head_parameters, heads)]
    replaced = {"backbone.embeddings": model.backbone.embeddings, "layers": layers, "heads": heads}
    refuse(model, HOST.name, differences(replaced, _PACKAGES, [*map(activation_of, layers)]))

    def build(*tensors: Tensor) -> Encoder:
        remaining = iter(tensors)
        groups = [list(itertools.islice(remaining, len(part))) for part in parts]
        precision = hidden_dtype(dtype, tensors[0].dtype)
        exit_heads: list[ExitHead | None] = [None] * len(layers)
        for number, head, group in zip(config.exit_layers, heads, groups[len(layers) :], strict=True):
            exit_heads[number - 1] = _head_weights(head, group, precision)
        return prepare_encoder(
            [layer_weights(layer, group) for layer, group in zip(layers, groups[: len(layers)], strict=True)],
            exit_heads,
            dtype,
            backend,
        )

    return Derived(model, list(itertools.chain.from_iterable(parts)), build, replaced.values())


def head_parameters(head: Any) -> Parameters:
    """What `_head_weights` takes, in its order."""
    from fastbert_hf.heads import AttentiveHead, PooledHead

    if isinstance(head, PooledHead):
        return linear_parameters([*head.dense, head.classifier])
    if not isinstance(head, AttentiveHead):
        raise ValueError(
            f"exit heads of the kind {type(head).__name__} cannot be patched, only AttentiveHead and PooledHead; the "
            "unpatched model serves them"
        )
    parameters = linear_parameters(
        [head.projection, head.query, head.key, head.value, head.attention_output, head.dense, head.classifier]
    )
    parameters.remove((head.key, "bias"))  # it drops out of the softmax
    return parameters


def _head_weights(head: Any, tensors: list[Tensor], dtype: torch.dtype) -> ExitHead:
    from fastbert_hf.heads import PooledHead

    if isinstance(head, PooledHead):
        return PooledHeadWeights.cast(
            tensors[::2], tensors[1::2], pooling=head.pooling, activation=head.activation, dtype=dtype
        )
    folded = fold_attentive_head(*tensors, num_attention_heads=head.num_attention_heads, dtype=dtype)
    return dataclasses.replace(folded, narrow_activation=head.activation, mlp_activation=head.activation)


def forward(
    model: Any,
    encoder: Encoder,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    speed: Any = None,
    labels: Tensor | None = None,
    output_all_exits: bool = False,
    speedup: float | None = None,
) -> Any:
    from fastbert_hf.backbones import has_segments
    from fastbert_hf.inputs import check_inputs
    from fastbert_hf.outputs import FastBertOutput, warn_if_not_finite

    valid = check_inputs(
        input_ids,
        attention_mask,
        token_type_ids,
        model.config.max_position_embeddings,
        has_segments=has_segments(model.backbone),
    )
    resolved = model.resolve_speed(speed, speedup, input_ids.shape[0])
    if output_all_exits or input_ids.shape[0] == 0:
        return NotImplemented  # nothing to gain: no sample leaves early, or there is none

    batch = _pack(model, encoder, valid, input_ids, token_type_ids, resolved.sample_speeds)
    results = encoder.run(batch, _rule(resolved, model.config.exit_layers))
    warn_if_not_finite(results.uncertainty)
    loss = None if labels is None else F.cross_entropy(results.logits, labels)
    return FastBertOutput(
        loss=loss, logits=results.logits, uncertainty=results.uncertainty, exit_layer=results.exit_layer
    )


def _rule(resolved: Any, exit_layers: list[int]) -> Rule:
    """Return the engine's rule for a `fastbert_hf.exits.resolution.ResolvedSpeed`."""
    if resolved.is_full_depth:
        return FULL_DEPTH
    speeds = resolved.layer_speeds
    # Where every head is asked and none has a Speed of its own, all calls share the rule, and what is recorded for it.
    unlimited = all(speeds[layer - 1] == math.inf for layer in exit_layers[:-1])
    return Rule(resolved.criterion, resolved.parameter, None if unlimited else speeds)


def _pack(
    model: Any,
    encoder: Encoder,
    valid: Tensor,
    input_ids: Tensor,
    token_type_ids: Tensor | None,
    speeds: Tensor,
) -> PackedBatch:
    """Valid tokens only, as one long row, embedded."""
    from fastbert_hf.backbones import first_position
    from fastbert_hf.inputs import make_position_ids

    size, length = input_ids.shape
    rows = valid.flatten().nonzero().flatten()  # the host learns T here
    positions = make_position_ids(valid, first_position(model.backbone.config)).flatten()[rows]
    segments = None if token_type_ids is None else token_type_ids.flatten()[rows]
    return PackedBatch(
        hidden=_embed(model, encoder, input_ids.flatten()[rows], positions, segments),
        cu_seqlens=cumulative_lengths(valid),
        sample_index=torch.arange(size, dtype=torch.int32, device=input_ids.device),
        speed=speeds,
        max_seqlen=length,
    )


def _embed(model: Any, encoder: Encoder, ids: Tensor, positions: Tensor, segments: Tensor | None) -> Tensor:
    """[T, H] of the encoder's dtype, for ids, positions and segments [T]."""
    from fastbert_hf import backbones

    backbone = model.backbone
    words = backbone.embeddings.word_embeddings.weight
    known = backbone.config.model_type in backbones.SUPPORTED_BACKBONES
    if not known or not isinstance(encoder, CompiledEncoder) or words.dtype != torch.float32:
        # The host's own work token by token too.
        segments = None if segments is None else segments[None]
        return backbones.embed(backbone, ids[None], positions[None], segments)[0].to(encoder.dtype)

    own = backbone.embeddings
    if hasattr(own, "token_type_embeddings"):
        table = own.token_type_embeddings.weight
    else:
        table = words.new_zeros(1, words.shape[1])
    projection = getattr(backbone, "embeddings_project", None)  # from ELECTRA's embedding size to the hidden size
    hidden = ops.embed(
        ids,
        positions,
        segments if backbones.has_segments(backbone) else None,
        words,
        own.position_embeddings.weight,
        table,
        own.LayerNorm.weight,
        own.LayerNorm.bias,
        layer_norm_eps=own.LayerNorm.eps,
        dtype=encoder.dtype if projection is None else words.dtype,
    )
    return hidden if projection is None else projection(hidden).to(encoder.dtype)


HOST = Host(
    name="fastbert_hf.FastBertForSequenceClassification",
    matches=matches,
    encoder=encoder,
    forward=forward,
)

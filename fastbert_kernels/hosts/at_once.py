"""Calls of `fastbert_hf` models that are answered from their ids on by one recorded graph."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.engine.entrance import Entrance, PaddedCall
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.hosts.bert_layers import has_position_bias
from fastbert_kernels.hosts.derived import is_plain


def entrance(model: Any) -> Entrance | None:
    """Return how a model of `fastbert_hf` embeds padded texts; None where nobody knows its vocabulary."""
    from fastbert_hf.backbones import num_segments, uncounted_id, vocabulary

    backbone = model.backbone
    if (known := vocabulary(backbone)) is None:
        return None
    uncounted = uncounted_id(backbone)
    first, padding = (0, -1) if uncounted is None else (uncounted + 1, uncounted)
    sizes = known, num_segments(backbone), first, model.config.max_position_embeddings
    # Between tokens whose distance counts there must be no padding.
    return entrance_of(backbone, *sizes, from_the_left=has_position_bias(backbone), padding=padding)


def entrance_of(
    backbone: Any,
    vocabulary: int,
    num_segments: int,
    first_position: int,
    longest: int,
    *,
    from_the_left: bool = False,
    padding: int = -1,
) -> Entrance | None:
    """Return how a backbone of Transformers embeds padded texts, None where only PyTorch's operations know its numbers;
    arguments as of `Entrance`, and `num_segments` may be 0."""
    from fastbert_hf.backbones import embed

    projection = getattr(backbone, "embeddings_project", None)
    tables = (*backbone.embeddings.parameters(), *(() if projection is None else projection.parameters()))
    if not is_plain(tables):
        return None

    def embed_tokens(ids: Tensor, positions: Tensor, segments: Tensor | None) -> Tensor:
        return embed(backbone, ids[None], positions[None], None if segments is None else segments[None])[0]

    segments = max(1, num_segments)
    return Entrance(embed_tokens, tables, vocabulary, segments, first_position, longest, from_the_left, padding)


def can_be_copied(mask: Tensor | None) -> bool:
    """Return whether a mask stays what it is as integers; others may hold fractions."""
    return mask is None or mask.dtype in (torch.int64, torch.int32, torch.bool)


def answer_at_once(
    model: Any,
    encoder: Encoder,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    speed: Any,
    speedup: float | None,
) -> Any:
    """Answer a call of the model's `forward`, whose arguments these are, by one graph; None where there is none.

    Raises:
        TypeError, ValueError: as the model's `check_batch` and `resolve_speed`, and for token ids outside the
            vocabulary.

    Warns:
        RuntimeWarning: an uncertainty is not finite.
    """
    if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or input_ids.numel() == 0:
        return None
    if not encoder.takes_padded(*input_ids.shape):
        return None
    model.check_forms(input_ids, attention_mask, token_type_ids)
    way_in = entrance(model)
    if way_in is None or not can_be_copied(attention_mask):
        return None
    resolved = model.resolve_speed(speed, speedup, input_ids.shape[0])
    if resolved.asks(0):  # before any layer
        return None
    call = PaddedCall(input_ids, attention_mask, token_type_ids, resolved.samples)
    answered = encoder.answer_padded(call, way_in, rule_of(resolved, model.config.exit_layers))
    if answered is None:
        return None
    if answered.fault:
        model.check_values(input_ids, attention_mask, token_type_ids)
        return None  # padding where this model has to be asked
    from fastbert_hf.outputs import FastBertOutput, warn_if_not_finite

    if any(map(math.isnan, answered.uncertainty)):
        warn_if_not_finite(torch.tensor(answered.uncertainty, device="cpu"))
    return FastBertOutput(**vars(answered.results))


def rule_of(resolved: Any, exit_layers: list[int]) -> Rule:
    """Return the engine's rule, of the heads behind layers, for a `fastbert_hf.exits.resolution.ResolvedSpeed`."""
    if resolved.is_full_depth:
        return Rule(resolved.criterion, resolved.parameter, early_exits=False)
    speeds = resolved.layer_speeds
    # Where every head is asked and none has a Speed of its own, all calls share the rule, and what is recorded for it.
    unlimited = all(speeds[layer - 1] == math.inf for layer in behind_layers(exit_layers)[:-1])
    return Rule(resolved.criterion, resolved.parameter, None if unlimited else speeds)


def behind_layers(exit_layers: list[int]) -> list[int]:
    """Return the exit layers without that of exit zero, which the engine does not know."""
    return [layer for layer in exit_layers if layer > 0]


def usual_rules(model: Any) -> list[Rule]:
    """Return the rule of one Speed for all layers, and that of the model's calibrated setting where it has one."""
    resolved = model.resolve_speed(None, None, 1)
    calibrated = rule_of(resolved, model.config.exit_layers)
    plain = rule_of(model.resolve_speed(1.0, None, 1), model.config.exit_layers)
    return [plain, calibrated] if calibrated.early_exits and calibrated != plain else [plain]

"""The embeddings of a Transformers backbone, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import ops
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.hosts.derived import is_plain


@dataclass(frozen=True)
class Tokens:
    """The tokens of B samples, one sample behind the other.

    Attributes:
        ids: [T].
        positions: int64 [T], rows of the backbone's position table.
        segments: [T], None for one segment.
        cu_seqlens: int32 [B + 1].
        max_seqlen: an upper bound of the sample lengths.
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor | None
    cu_seqlens: Tensor
    max_seqlen: int


def embed(backbone: Any, encoder: Encoder, tokens: Tokens) -> Tensor:
    """Return what the first layer takes, [T, H] of the encoder's dtype."""
    from fastbert_hf import backbones

    words = backbone.embeddings.word_embeddings.weight
    known = backbone.config.model_type in backbones.SUPPORTED_BACKBONES and is_plain(backbone.embeddings.parameters())
    if not known or not isinstance(encoder, CompiledEncoder) or words.dtype != torch.float32:
        # The host's own work token by token too.
        segments = None if tokens.segments is None else tokens.segments[None]
        return backbones.embed(backbone, tokens.ids[None], tokens.positions[None], segments)[0].to(encoder.dtype)

    own = backbone.embeddings
    if hasattr(own, "token_type_embeddings"):
        table = own.token_type_embeddings.weight
    else:
        table = words.new_zeros(1, words.shape[1])
    projection = getattr(backbone, "embeddings_project", None)  # from ELECTRA's embedding size to the hidden size
    hidden = ops.embed(
        tokens.ids,
        tokens.positions,
        tokens.segments,
        words,
        own.position_embeddings.weight,
        table,
        own.LayerNorm.weight,
        own.LayerNorm.bias,
        layer_norm_eps=own.LayerNorm.eps,
        dtype=encoder.dtype if projection is None else words.dtype,
    )
    return hidden if projection is None else projection(hidden).to(encoder.dtype)

"""The embeddings of a Transformers backbone, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.hosts.derived import is_plain
from fastbert_kernels.hosts.structure import differences, find
from fastbert_kernels.ops.embed import embed_now

# What a token becomes is the norm of the sum of a row of each of these.
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")


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


def embedding_differences(backbone: Any) -> list[str]:
    """Name what keeps `embed` from computing what the backbone's own embeddings do, one phrase for each."""
    from fastbert_hf.backbone_families import SUPPORTED_BACKBONES

    own = backbone.embeddings
    found: list[str] = []
    if backbone.config.model_type in SUPPORTED_BACKBONES:  # of others, its own are called
        tables = {name: nn.Embedding for name in _EMBEDDINGS if find(own, name) is not None}
        found = differences(own, {**tables, "LayerNorm": nn.LayerNorm}, "embeddings.")
        if not found and (own.LayerNorm.weight is None or own.LayerNorm.bias is None):
            found.append("embeddings.LayerNorm has no weight or no bias")
    positions, segments = (getattr(own, name, None) for name in ("position_ids", "token_type_ids"))
    if not is_plain(buffer for buffer in (positions, segments) if buffer is not None):
        return [*found, f"embeddings.position_ids is a {type(positions).__name__}, whose numbers cannot be read"]
    if positions is not None and not torch.equal(positions, torch.arange(positions.numel()).to(positions)[None]):
        found.append("embeddings.position_ids does not count from 0")
    if segments is not None and bool(segments.any()):
        found.append("embeddings.token_type_ids is not 0 throughout")
    return found


def embed(backbone: Any, encoder: Encoder, tokens: Tokens) -> Tensor:
    """Return what the first layer takes, [T, H] of the encoder's dtype."""
    from fastbert_hf import backbones

    if (tables := _tables(backbone, encoder)) is not None:
        projection = _projection(backbone)
        dtype = encoder.dtype if projection is None else tables[0].dtype
        eps = backbone.embeddings.LayerNorm.eps
        hidden = embed_now((tokens.ids, tokens.positions, tokens.segments), tables, eps, dtype)
        return hidden if projection is None else projection(hidden).to(encoder.dtype)
    # The host's own work token by token too.
    segments = None if tokens.segments is None else tokens.segments[None]
    return backbones.embed(backbone, tokens.ids[None], tokens.positions[None], segments)[0].to(encoder.dtype)


def is_row_wise(backbone: Any, encoder: Encoder) -> bool:
    """Return whether `embed` computes each token by itself, so that its bits do not depend on the others."""
    return _projection(backbone) is None and _tables(backbone, encoder) is not None


def _projection(backbone: Any) -> Any:
    """Return the step from ELECTRA's width of embeddings to that of the layers, None where there is none."""
    return getattr(backbone, "embeddings_project", None)


def _tables(backbone: Any, encoder: Encoder) -> tuple[Tensor, ...] | None:
    """Return what the native embeddings take beside the ids; None where they do not serve this backbone."""
    from fastbert_hf.backbone_families import SUPPORTED_BACKBONES

    own = backbone.embeddings
    words = own.word_embeddings.weight
    if backbone.config.model_type not in SUPPORTED_BACKBONES or not isinstance(encoder, CompiledEncoder):
        return None
    if words.dtype != torch.float32:
        return None
    segments = getattr(own, "token_type_embeddings", None)
    table = words.new_zeros(1, words.shape[1]) if segments is None else segments.weight
    norm = own.LayerNorm
    tables = words, own.position_embeddings.weight, table, norm.weight, norm.bias
    return tables if is_plain(tables) else None

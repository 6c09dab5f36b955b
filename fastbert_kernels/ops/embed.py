"""`torch.ops.fastbert.embed`: the embeddings of packed tokens, on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from fastbert_kernels import _extension
from fastbert_kernels.layer_norm import check_layer_norm
from fastbert_kernels.ops import library

SCHEMA = (
    "embed(Tensor input_ids, Tensor position_ids, Tensor? token_type_ids, Tensor words, Tensor positions, "
    "Tensor segments, Tensor norm_weight, Tensor norm_bias, *, float layer_norm_eps, ScalarType dtype, "
    "str layer_norm='standard') -> Tensor"
)
DTYPES = (torch.float32, torch.bfloat16)


def embed(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    words: Tensor,
    positions: Tensor,
    segments: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    layer_norm_eps: float,
    dtype: torch.dtype = torch.float32,
    layer_norm: str = "standard",
) -> Tensor:
    """LayerNorm(words[input_ids] + positions[position_ids] + segments[token_type_ids]), in one pass.

    Args:
        input_ids, position_ids, token_type_ids: [T] int64 or int32; no token types are all 0.
        words, positions, segments: [V, H], [P, H] and [S, H] float32. norm_weight, norm_bias: [H] float32.
        dtype: of the result, float32 or bfloat16.
        layer_norm: its kind, "standard" or "unbiased" (`fastbert_kernels.layer_norm` has the formulas).

    Returns:
        [T, H].

    Raises:
        IndexError: an id is outside its table. ValueError, TypeError: shapes or dtypes do not fit.
    """
    return torch.ops.fastbert.embed(
        input_ids,
        position_ids,
        token_type_ids,
        words,
        positions,
        segments,
        norm_weight,
        norm_bias,
        layer_norm_eps=layer_norm_eps,
        dtype=dtype,
        layer_norm=layer_norm,
    )


def _check(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    words: Tensor,
    positions: Tensor,
    segments: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    dtype: torch.dtype,
    layer_norm: str,
) -> None:
    if dtype not in DTYPES:
        raise TypeError(f"dtype must be torch.float32 or torch.bfloat16, not {dtype}")
    if words.dim() != 2:
        raise ValueError(f"words must be [V, H], not {list(words.shape)}")
    width, count = words.shape[1], input_ids.shape[0]
    check_layer_norm(layer_norm, width)
    for name, table in (("words", words), ("positions", positions), ("segments", segments)):
        library.check_shape(name, table, (table.shape[0], width), torch.float32)
    for name, ids in (("input_ids", input_ids), ("position_ids", position_ids), ("token_type_ids", token_type_ids)):
        if ids is not None:
            library.check_shape(name, ids, (count,), torch.int64, torch.int32)
    library.check_shape("norm_weight", norm_weight, (width,), torch.float32)
    library.check_shape("norm_bias", norm_bias, (width,), torch.float32)
    library.check_device(
        words.device,
        input_ids=input_ids,
        position_ids=position_ids,
        positions=positions,
        segments=segments,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
    )
    if token_type_ids is not None:
        library.check_device(words.device, token_type_ids=token_type_ids)


def _kernel(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    words: Tensor,
    positions: Tensor,
    segments: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    layer_norm_eps: float,
    dtype: torch.dtype,
    layer_norm: str = "standard",
) -> Tensor:
    tables = (words, positions, segments, norm_weight, norm_bias)
    _check(input_ids, position_ids, token_type_ids, *tables, dtype, layer_norm)
    out = torch.empty(input_ids.shape[0], words.shape[1], dtype=dtype)
    ids = (None if x is None else x.long() for x in (input_ids, position_ids, token_type_ids))
    _extension.module().embed(*library.contiguous(*ids, *tables), layer_norm_eps, layer_norm, out)
    return out


def _fake(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    words: Tensor,
    positions: Tensor,
    segments: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    layer_norm_eps: float,
    dtype: torch.dtype,
    layer_norm: str = "standard",
) -> Tensor:
    tables = (words, positions, segments, norm_weight, norm_bias)
    _check(input_ids, position_ids, token_type_ids, *tables, dtype, layer_norm)
    return words.new_empty(input_ids.shape[0], words.shape[1], dtype=dtype)


library.register(SCHEMA, _kernel, _fake, "CPU")

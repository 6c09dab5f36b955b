"""`torch.ops.fastbert.embed`: the embeddings of packed tokens, on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastbert_kernels import _extension, reference
from fastbert_kernels.layer_norm import check_layer_norm
from fastbert_kernels.ops import library

DTYPES = (torch.float32, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32)
_IDS = ("input_ids", "position_ids", "token_type_ids")  # the first arguments


@library.op(devices=("CPU",))
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
    backend: str = "auto",
) -> Tensor:
    """LayerNorm(words[input_ids] + positions[position_ids] + segments[token_type_ids]), in one pass.

    Args:
        input_ids: [T] int64 or int32.
        position_ids: [T] int64 or int32.
        token_type_ids: [T] int64 or int32; None is all 0.
        words: [V, H] float32.
        positions: [P, H] float32.
        segments: [S, H] float32.
        norm_weight: [H] float32.
        norm_bias: [H] float32.
        layer_norm_eps: of the LayerNorm.
        dtype: of the result, float32 or bfloat16.
        layer_norm: its kind, "standard" or "unbiased" (`fastbert_kernels.layer_norm` has the formulas).

    Returns:
        [T, H].

    Raises:
        IndexError: an id is outside its table. ValueError, TypeError: shapes or dtypes do not fit.
    """
    if dtype not in DTYPES:
        raise TypeError(f"dtype must be torch.float32 or torch.bfloat16, not {dtype}")
    if words.dim() != 2 or input_ids.dim() != 1:
        raise ValueError(f"words must be [V, H] and input_ids [T], not {list(words.shape)}, {list(input_ids.shape)}")
    check, device = library.check_tensor, words.device
    width, count = words.shape[1], input_ids.shape[0]
    check_layer_norm(layer_norm, width)
    for name, table in (("words", words), ("positions", positions), ("segments", segments)):
        check(name, table, device, (*table.shape[:1], width), torch.float32)
    for name, ids in zip(_IDS, (input_ids, position_ids, token_type_ids), strict=True):
        if ids is not None:
            check(name, ids, device, (count,), *_INTEGERS)
    check("norm_weight", norm_weight, device, (width,), torch.float32)
    check("norm_bias", norm_bias, device, (width,), torch.float32)
    return words.new_empty(count, width, dtype=dtype)


@torch.compiler.disable
def embed_now(
    ids: tuple[Tensor, Tensor, Tensor | None], tables: Sequence[Tensor], layer_norm_eps: float, dtype: torch.dtype
) -> Tensor:
    """Compute `embed` without PyTorch's dispatcher, on a CPU and unseen by tracers.

    Args:
        ids: the first three arguments of `embed`; errors as there.
        tables: its next five.
        layer_norm_eps: as there.
        dtype: as there.
    """
    words = tables[0]
    result = words.new_empty(ids[0].shape[0], words.shape[1], dtype=dtype)
    ready = [table.contiguous() for table in tables]
    _cpu(result, *ids, *ready, layer_norm_eps=layer_norm_eps, dtype=dtype, layer_norm="standard")
    return result


def _cpu(result: Tensor, *given: Tensor | None, layer_norm_eps: float, dtype: torch.dtype, layer_norm: str) -> None:
    ids = (_as_int64(name, tensor) for name, tensor in zip(_IDS, given, strict=False))
    _extension.module().embed(*ids, *given[len(_IDS) :], layer_norm_eps, layer_norm, result)


def _as_int64(name: str, ids: Tensor | None) -> Tensor | None:
    if ids is not None and ids.dtype not in _INTEGERS:
        raise TypeError(f"{name} must be torch.int64 or torch.int32, not {ids.dtype}")
    return None if ids is None else ids.long()


library.implement(embed, cpu=_cpu, reference=reference.embed)

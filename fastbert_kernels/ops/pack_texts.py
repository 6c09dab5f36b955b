"""Texts padded to one length, as packed rows of ids, in one native pass on a CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastbert_kernels import _extension


class PackedTexts(NamedTuple):
    """Texts one behind the other.

    Attributes:
        ids: int64 [T].
        positions: int64 [T], rows of the position table.
        segments: int64 [T], or None for 0.
        cu_seqlens: int32 [B + 1].
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor | None
    cu_seqlens: Tensor


@torch.compiler.disable
def pack_texts(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    *,
    vocabulary: int,
    num_segments: int,
    uncounted: int | None,
) -> PackedTexts | None:
    """Pack a padded batch, after a look at all its values.

    It takes the place of some thirty operations of PyTorch, which a call with one short text notices.

    Args:
        input_ids: [B, L].
        attention_mask: [B, L], 1 for a token and 0 for padding on any side, or None without padding.
        token_type_ids: [B, L], or None for 0.
        vocabulary: number of ids that there are.
        num_segments: number of segments that there are; where it is 1, all have to be 0.
        uncounted: id whose tokens have that number for their position, behind which those of the others begin, as in
            RoBERTa's family; None where positions are columns, counted from the first token of a text.

    Returns:
        None where that is not for this function: tensors that are not int64, contiguous, of one shape and on a CPU; or
        a value that no model takes, of which the caller has to say what is wrong.
    """
    if type(input_ids) is not Tensor or input_ids.dim() != 2:
        return None
    shape = input_ids.shape
    for tensor in (input_ids, attention_mask, token_type_ids):
        if tensor is not None and not (
            type(tensor) is Tensor
            and tensor.dtype is torch.int64
            and tensor.device.type == "cpu"
            and tensor.shape == shape
            and tensor.is_contiguous()
        ):
            return None
    ids, positions, segments = input_ids.new_empty((3, *shape))
    cu_seqlens = torch.empty(shape[0] + 1, dtype=torch.int32, device="cpu")
    kept = None if token_type_ids is None or num_segments <= 1 else segments
    tokens = _extension.module().pack_texts(
        input_ids,
        attention_mask,
        token_type_ids,
        (ids, positions, kept, cu_seqlens),
        vocabulary=vocabulary,
        num_segments=num_segments,
        uncounted=-1 if uncounted is None else uncounted,
    )
    if tokens < 0:
        return None
    packed, places = (rows.view(-1)[:tokens] for rows in (ids, positions))
    return PackedTexts(packed, places, None if kept is None else kept.view(-1)[:tokens], cu_seqlens)

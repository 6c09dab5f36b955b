"""Texts of a `fastbert_hf` model on their way to packed rows, whether a caller pads them or lays them one behind the
other: checks, and the position of every token."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.hosts.backbones import Tokens
from fastbert_kernels.hosts.base import OwnForward
from fastbert_kernels.hosts.bert_layers import has_position_bias
from fastbert_kernels.hosts.padding import ValidTokens, has_gaps
from fastbert_kernels.ops.pack_texts import pack_texts


def tokens_of_padded(
    model: Any, encoder: Encoder, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
) -> Tokens:
    """Return what the embeddings take of a padded batch; arguments and errors as of the model's `forward`.

    Raises:
        OwnForward: padding between tokens where distances count.
    """
    backbone = model.backbone
    distances_count = has_position_bias(backbone)
    if isinstance(encoder, CompiledEncoder) and not distances_count and _checks_are_of_the_library(model):
        tokens = _natively(model, input_ids, attention_mask, token_type_ids)
        if tokens is not None:
            return tokens
    padded = model.check_batch(input_ids, attention_mask, token_type_ids)
    if distances_count and has_gaps(padded.valid):
        raise OwnForward("padding between tokens, whose distance it changes")
    valid = ValidTokens.of(padded.valid)  # on a GPU the host learns T here
    return Tokens(
        valid.take(padded.input_ids),
        valid.take(padded.position_ids),
        None if padded.token_type_ids is None else valid.take(padded.token_type_ids),
        valid.cu_seqlens,
        valid.max_seqlen,
    )


def _checks_are_of_the_library(model: Any) -> bool:
    from fastbert_hf.modeling import FastBertForSequenceClassification

    return getattr(model.check_batch, "__func__", None) is FastBertForSequenceClassification.check_batch


def _natively(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
) -> Tokens | None:
    """Return the same in one native pass; None where that cannot be, or where something is wrong and the model's own
    checks have to say what."""
    from fastbert_hf.backbones import num_segments, uncounted_id, vocabulary

    backbone = model.backbone
    known = vocabulary(backbone)
    if known is None or not isinstance(input_ids, Tensor) or input_ids.dim() != 2:
        return None
    longest = input_ids.shape[1]
    if longest > model.config.max_position_embeddings:
        return None
    packed = pack_texts(
        input_ids,
        attention_mask,
        token_type_ids,
        vocabulary=known,
        num_segments=num_segments(backbone),
        uncounted=uncounted_id(backbone),
    )
    if packed is None:
        return None
    return Tokens(packed.ids, packed.positions, packed.segments, packed.cu_seqlens, longest)


@dataclass(frozen=True)
class Rows:
    """The tokens of B texts, one text behind the other, after their checks.

    Attributes:
        ids: int64 or int32 [T].
        segments: int64 or int32 [T], None for one segment.
        lengths: of each text, in tokens.
    """

    ids: Tensor
    segments: Tensor | None
    lengths: list[int]

    def __len__(self) -> int:
        return len(self.lengths)

    def copied(self) -> Rows:
        """Return the same in memory that the caller does not write to."""
        return Rows(self.ids.clone(), None if self.segments is None else self.segments.clone(), self.lengths)

    def kept(self, stays: Tensor) -> Rows:
        """Return the texts that stay, bool [B]."""
        lengths = torch.tensor(self.lengths, device=stays.device)
        tokens = stays.repeat_interleave(lengths, output_size=self.ids.shape[0])
        segments = None if self.segments is None else self.segments[tokens]
        return Rows(self.ids[tokens], segments, lengths[stays].tolist())


def packed_tokens(model: Any, input_ids: Tensor, cu_seqlens: Tensor, token_type_ids: Tensor | None) -> Tokens:
    """Return what the embeddings take; arguments and errors as in `fastbert_hf.forward_packed` of the hosts."""
    return tokens_of(model, [checked_rows(model, input_ids, cu_seqlens, token_type_ids)])


def checked_rows(model: Any, input_ids: Tensor, cu_seqlens: Tensor, token_type_ids: Tensor | None = None) -> Rows:
    """Return the texts of a caller; arguments and errors as in `fastbert_hf.forward_packed` of the hosts."""
    from fastbert_hf.backbones import num_segments, vocabulary

    if model.training:
        raise RuntimeError("rows without padding are answered in eval mode only; call model.eval() first")
    lengths = _check_shapes(input_ids, cu_seqlens, token_type_ids)
    longest, most = max(lengths, default=0), model.config.max_position_embeddings
    if longest > most:
        raise ValueError(
            f"text {lengths.index(longest)} has {longest} tokens, which exceeds the backbone's {most} positions; "
            "truncate it"
        )
    if token_type_ids is not None and (
        token_type_ids.shape != input_ids.shape or token_type_ids.device != input_ids.device
    ):
        raise ValueError(
            f"token_type_ids must be as input_ids, {list(input_ids.shape)} on {input_ids.device}, not "
            f"{list(token_type_ids.shape)} on {token_type_ids.device}"
        )
    known, segments = vocabulary(model.backbone), num_segments(model.backbone)
    if not (_within(input_ids, known) and _within(token_type_ids, segments)):
        _check_values(input_ids, token_type_ids, known, segments)
    return Rows(input_ids, token_type_ids if segments > 1 else None, lengths)


def _within(ids: Tensor | None, rows: int | None) -> bool:
    """Return True where a quick look found all ids in a table of so many rows; False where it has to be asked
    otherwise."""
    if ids is None:
        return True
    if rows is None or ids.numel() == 0 or ids.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    lowest, highest = torch.aminmax(ids)
    return bool(lowest >= 0) and bool(highest < rows)


def _check_values(input_ids: Tensor, token_type_ids: Tensor | None, vocabulary: int | None, num_segments: int) -> None:
    """Raise `ValueError` for ids and segments that are in no table of the model."""
    from fastbert_hf.inputs import check_packed_ids

    if token_type_ids is not None and num_segments <= 1:
        if bool((token_type_ids != 0).any()):
            raise ValueError("token_type_ids must be 0: this backbone does not tell segments apart; leave them out")
        token_type_ids = None
    check_packed_ids(input_ids, token_type_ids, vocabulary, num_segments)


def tokens_of(model: Any, texts: Sequence[Rows]) -> Tokens:
    """Return what the embeddings take of some rows, one behind the other, of which there is one at least."""
    from fastbert_hf.backbones import uncounted_id

    ids, segments = texts[0].ids, texts[0].segments
    if len(texts) > 1:
        ids = torch.cat([rows.ids for rows in texts])
        if any(rows.segments is not None for rows in texts):
            kinds = [torch.zeros_like(rows.ids) if rows.segments is None else rows.segments for rows in texts]
            segments = torch.cat(kinds)
    lengths = [length for rows in texts for length in rows.lengths]
    bounds = [*itertools.accumulate(lengths, initial=0)]

    def send(numbers: list[int], dtype: torch.dtype) -> Tensor:
        # From pinned memory, so that nobody waits.
        return torch.tensor(numbers, dtype=dtype, pin_memory=ids.is_cuda).to(ids.device, non_blocking=True)

    uncounted = uncounted_id(model.backbone)
    if uncounted is None and ids.device.type == "cpu":
        # `repeat_interleave` wakes PyTorch's threads for any size, which takes longer than all the rest of this.
        counting = torch.arange(max(lengths, default=0))
        positions = torch.cat([counting[:length] for length in lengths] or [counting])
    else:
        begins = send(bounds[:-1], torch.int64).repeat_interleave(send(lengths, torch.int64), output_size=ids.shape[0])
        positions = _positions(ids, begins, uncounted)
    return Tokens(ids, positions, segments, send(bounds, torch.int32), max(lengths, default=0))


def _positions(input_ids: Tensor, begins: Tensor, uncounted: int | None) -> Tensor:
    """Return the position of every token in its text, int64 [T].

    Args:
        input_ids: [T].
        begins: int64 [T], where the text of each token begins.
        uncounted: the id whose tokens count no position and have that number for theirs, behind which the others begin,
            as in RoBERTa; None where all tokens count, from 0.
    """
    if uncounted is None:
        return torch.arange(input_ids.shape[0], device=input_ids.device) - begins
    counted = input_ids != uncounted
    numbers = counted.cumsum(dim=0)  # of each token, from 1, if it counts
    before = torch.cat((numbers.new_zeros(1), numbers))[begins]
    return (numbers - before) * counted + uncounted


def _check_shapes(input_ids: Tensor, cu_seqlens: Tensor, token_type_ids: Tensor | None) -> list[int]:
    """Return the length of every text."""
    given = {"input_ids": input_ids, "cu_seqlens": cu_seqlens, "token_type_ids": token_type_ids}
    for name, tensor in given.items():
        if tensor is None and name == "token_type_ids":
            continue
        if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.int64, torch.int32):
            raise TypeError(
                f"{name} must be an int64 or int32 tensor, not {getattr(tensor, 'dtype', type(tensor).__name__)}"
            )
        if tensor.dim() != 1:
            raise ValueError(f"{name} must have one dimension, not shape {list(tensor.shape)}")
    if cu_seqlens.device.type != "cpu":
        raise ValueError(f"cu_seqlens must be in host memory, not on {cu_seqlens.device}: give cu_seqlens.cpu()")
    count, bounds = input_ids.shape[0], cu_seqlens.tolist()
    lengths = [end - begin for begin, end in itertools.pairwise(bounds)]
    if not bounds or bounds[0] != 0 or bounds[-1] != count or min(lengths, default=1) < 1:
        raise ValueError(
            f"cu_seqlens must ascend from 0 to the number of tokens, {count}, with at least one token a text; it is "
            f"{bounds if len(bounds) <= 10 else [*bounds[:10], '...']}"
        )
    return lengths


def padded_inputs(
    model: Any, input_ids: Tensor, cu_seqlens: Tensor, token_type_ids: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ids, mask and segments [B, L] of texts without padding, after their checks."""
    tokens = packed_tokens(model, input_ids, cu_seqlens, token_type_ids)
    lengths = tokens.cu_seqlens.diff()
    valid = torch.arange(tokens.max_seqlen, device=input_ids.device) < lengths[:, None]

    def pad(ids: Tensor) -> Tensor:
        return ids.new_zeros(valid.shape).masked_scatter_(valid, ids)

    return pad(input_ids), valid.long(), None if token_type_ids is None else pad(token_type_ids)

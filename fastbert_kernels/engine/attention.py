"""Self-attention over a packed batch: every sample attends to its own tokens only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache, partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels.engine.attention_choice import (
    DENSE,
    PADDED,
    UNMEASURED,
    VARLEN,
    AttentionChoice,
    choice_for,
)


def packed_attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    num_heads: int,
    position_bias: Tensor | None = None,
    choice: AttentionChoice = UNMEASURED,
) -> Tensor:
    """Compute softmax(Q K^T / sqrt(d) + p) V within each sample, where p depends on the distance of key and query.

    Args:
        qkv: [T, 3H], query, key and value beside each other.
        cu_seqlens: [B + 1] int32.
        max_seqlen: an upper bound of the sample lengths.
        num_heads: divides H.
        position_bias: p [num_heads, 2P - 1] of the distances 1 - P to P - 1 from query to key, in the dtype of `qkv`;
            a greater distance counts as the greatest. None is no p.
        choice: of the kernels on a GPU.

    Returns:
        [T, H].
    """
    tokens, width = qkv.shape
    heads = qkv.view(tokens, 3, num_heads, width // (3 * num_heads))  # [T, 3, heads, d]
    if not qkv.is_cuda:
        return _per_sample(heads, cu_seqlens, position_bias)
    if tokens == 0:  # only samples without tokens are left
        return heads.select(1, 0).flatten(1)
    samples, biased = cu_seqlens.shape[0] - 1, position_bias is not None
    way = choice.way(tokens, samples, max_seqlen, qkv.dtype, heads.shape[3], biased=biased)
    return attend_by(way, heads, cu_seqlens, max_seqlen, position_bias)


def attention_choice(device: torch.device, dtype: torch.dtype, num_heads: int, head_size: int) -> AttentionChoice:
    """Return the choice of kernels for layers with such heads, measured on the device where it is a GPU."""

    def make_call(way: str, shape: tuple[int, int]) -> Callable[[], Tensor]:
        tokens, length = shape
        generator = torch.Generator(device).manual_seed(0)  # the caller's own stays where it was
        heads = torch.randn(tokens, 3, num_heads, head_size, dtype=dtype, device=device, generator=generator)
        bounds = torch.arange(0, tokens + 1, length, dtype=torch.int32, device=device)
        return partial(attend_by, way, heads, bounds, length)

    with torch.inference_mode():
        return choice_for(device, dtype, num_heads, head_size, make_call)


def attend_by(
    way: str, heads: Tensor, cu_seqlens: Tensor, max_seqlen: int, position_bias: Tensor | None = None
) -> Tensor:
    """Compute attention on a GPU in one of `attention_choice.WAYS`.

    Args:
        way: which.
        heads: [T, 3, heads, d], query, key and value.
        cu_seqlens: as of `packed_attention`, and so the others.

    Returns:
        [T, H].
    """
    if way == VARLEN:
        return _varlen(heads, cu_seqlens, max_seqlen)
    if way == DENSE:
        return _dense(heads, cu_seqlens.shape[0] - 1, position_bias)
    if way == PADDED:
        return _padded(heads, cu_seqlens, max_seqlen, position_bias)
    raise ValueError(f"there is no way {way!r} to compute attention")


def _varlen(heads: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Compute the attention of all samples in one launch."""
    query, key, value = heads.unbind(1)
    if not torch.compiler.is_compiling() and _flash_is_as_known():
        # What `varlen_attn` would call, without its custom op, and without the launch that fills a seed for nobody.
        outputs = torch.ops.aten._flash_attention_forward(
            query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, False, False
        )
        return cast(Tensor, outputs[0]).flatten(1)
    from torch.nn.attention.varlen import varlen_attn  # its kernels need CUDA

    attended = varlen_attn(query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
    assert isinstance(attended, Tensor)  # a tuple only with return_aux
    return attended.flatten(1)


_FLASH = ["query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k"]
_FLASH += ["dropout_p", "is_causal", "return_debug_mask"]


@cache
def _flash_is_as_known() -> bool:
    """Return whether this PyTorch's kernel behind `varlen_attn` takes what `_varlen` gives it; it is not public."""
    operator = getattr(torch.ops.aten, "_flash_attention_forward", None)
    if operator is None:
        return False
    schema = operator.default._schema
    rest = schema.arguments[len(_FLASH) :]
    return (
        [argument.name for argument in schema.arguments[: len(_FLASH)]] == _FLASH
        and all(argument.has_default_value() for argument in rest)
        and isinstance(schema.returns[0].type, torch.TensorType)
    )


def _per_sample(heads: Tensor, cu_seqlens: Tensor, position_bias: Tensor | None = None) -> Tensor:
    """One call per sample: no padding is computed, and on a CPU a call costs little beside the work in it."""
    bounds = cu_seqlens.tolist()
    lengths = {end - begin for begin, end in itertools.pairwise(bounds)}
    added = {n: None if position_bias is None else _by_position(position_bias, n) for n in lengths}
    if len(lengths) == 1:
        return _dense(heads, len(bounds) - 1, position_bias)
    out = torch.empty_like(heads[:, 0], memory_format=torch.contiguous_format)
    for begin, end in itertools.pairwise(bounds):
        query, key, value = heads[None, begin:end].unbind(2)
        out[begin:end] = _attend(query, key, value, added[end - begin])[0]
    return out.flatten(1)


def _dense(heads: Tensor, samples: int, position_bias: Tensor | None) -> Tensor:
    """Samples that are equally long, so that nothing is moved."""
    query, key, value = heads.unflatten(0, (samples, -1)).unbind(2)
    added = None if position_bias is None else _by_position(position_bias, query.shape[1])
    return _attend(query, key, value, added).flatten(0, 1).flatten(1)


def _padded(heads: Tensor, cu_seqlens: Tensor, max_seqlen: int, position_bias: Tensor | None = None) -> Tensor:
    """Padded for the time of the attention only; shapes come from `max_seqlen`, so the host waits for nothing."""
    tokens, device = heads.shape[0], heads.device
    begins, lengths = cu_seqlens[:-1].long(), (cu_seqlens[1:] - cu_seqlens[:-1]).long()
    column = torch.arange(max_seqlen, device=device)
    valid = column < lengths[:, None]  # [B, L]
    # Padding takes the sample's own first row: a NaN of another sample would come through, 0 times NaN being NaN.
    own = begins.clamp(max=max(tokens - 1, 0))[:, None]
    rows = torch.where(valid, begins[:, None] + column, own)
    mask = valid[:, None, None, :]
    if position_bias is not None:
        mask = _by_position(position_bias, max_seqlen).masked_fill(~mask, -math.inf)  # [B, heads, L, L]
    query, key, value = (x[rows] for x in heads.unbind(1))
    attended = _attend(query, key, value, mask)  # [B, L, heads, d]
    samples = torch.arange(lengths.shape[0], device=device)
    sample = torch.repeat_interleave(samples, lengths, output_size=tokens)
    return attended[sample, torch.arange(tokens, device=device) - begins[sample]].flatten(1)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend among [B, L, heads, d], which is the shape of the result, too; `mask` is bool or added to the scores."""
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)


def _by_position(position_bias: Tensor, length: int) -> Tensor:
    """Return what is added to the scores of one sample, [num_heads, length, length]; see `packed_attention`."""
    position, reach = torch.arange(length, device=position_bias.device), position_bias.shape[1] // 2
    distance = position - position[:, None]  # from query to key
    return position_bias[:, distance.clamp(-reach, reach) + reach]

"""Self-attention over a packed batch: every sample attends to its own tokens only."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F


def packed_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, num_heads: int) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V within each sample.

    Args:
        qkv: [T, 3H], query, key and value beside each other.
        cu_seqlens: [B + 1] int32. max_seqlen: an upper bound of the sample lengths. num_heads: divides H.

    Returns:
        [T, H].
    """
    query, key, value = qkv.unflatten(1, (3, num_heads, -1)).unbind(1)  # [T, heads, d] each
    if not qkv.is_cuda:
        return _per_sample(query, key, value, cu_seqlens)
    if qkv.shape[0] == 0:  # only samples without tokens are left
        return query.flatten(1)
    if _varlen_takes(qkv.dtype, query.shape[2]):
        from torch.nn.attention.varlen import varlen_attn  # its kernels need CUDA

        attended = varlen_attn(query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
        assert isinstance(attended, Tensor)  # a tuple only with return_aux
        return attended.flatten(1)
    return _padded(query, key, value, cu_seqlens, max_seqlen)


def _varlen_takes(dtype: torch.dtype, head_size: int) -> bool:
    """What the FlashAttention kernels behind `varlen_attn` have; only `scaled_dot_product_attention` pads other
    sizes."""
    return dtype in (torch.float16, torch.bfloat16) and head_size % 8 == 0 and head_size <= 256


def _per_sample(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor) -> Tensor:
    """One call per sample: no padding is computed, and on a CPU a call costs little beside the work in it."""
    bounds = cu_seqlens.tolist()
    lengths = {end - begin for begin, end in itertools.pairwise(bounds)}
    if len(lengths) == 1:
        return _attend(*(x.unflatten(0, (len(bounds) - 1, -1)) for x in (query, key, value))).flatten(0, 1).flatten(1)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for begin, end in itertools.pairwise(bounds):
        out[begin:end] = _attend(query[None, begin:end], key[None, begin:end], value[None, begin:end])[0]
    return out.flatten(1)


def _padded(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Padded for the time of the attention only; shapes come from `max_seqlen`, so the host waits for nothing."""
    batch = cu_seqlens.shape[0] - 1
    begins, lengths = cu_seqlens[:-1].long(), (cu_seqlens[1:] - cu_seqlens[:-1]).long()
    column = torch.arange(max_seqlen, device=query.device)
    valid = column < lengths[:, None]  # [B, L]
    # Padding takes the sample's own first row: a NaN of another sample would come through, 0 times NaN being NaN.
    own = begins.clamp(max=max(query.shape[0] - 1, 0))[:, None]
    rows = torch.where(valid, begins[:, None] + column, own)
    attended = _attend(query[rows], key[rows], value[rows], valid[:, None, None, :])  # [B, L, heads, d]
    tokens = torch.arange(query.shape[0], device=query.device)
    sample = torch.repeat_interleave(torch.arange(batch, device=query.device), lengths, output_size=query.shape[0])
    return attended[sample, tokens - begins[sample]].flatten(1)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B, L, heads, d] in and out."""
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)

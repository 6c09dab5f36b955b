"""The ops in plain PyTorch: the specification, the oracle of the tests (in float64) and the fallback.

Symbols: T tokens of B samples in a packed batch; H hidden size; C narrow size of the head, h attention heads; N labels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def normalised_entropy(logits: Tensor) -> Tensor:
    """Uncertainty `-sum_c p_c log p_c / log N` of softmax(logits) (FastBERT, equation 7).

    Args:
        logits: [B, N], N >= 2.

    Returns:
        [B] in [0, 1], of the dtype of `logits`; NaN where a logit is NaN or +inf.
    """
    log_p = F.log_softmax(logits, dim=-1)
    p = log_p.exp()
    terms = torch.where(p == 0, 0, p * log_p)  # 0 log 0 = 0
    return (-terms.sum(dim=-1) / math.log(logits.shape[-1])).clamp(0, 1)


def exit_head(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    projection_weight: Tensor,
    projection_bias: Tensor,
    query: Tensor,
    query_bias: Tensor,
    value: Tensor,
    value_bias: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The attentive exit head with folded weights on a packed batch; see `fastbert_kernels.ops.exit_head`.

    Everything is float32, except that float64 input is computed in float64 (the oracle) and the projection runs in the
    dtype of `hidden`.
    """
    precision = torch.promote_types(hidden.dtype, torch.float32)
    begins, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    batch, heads = speed.shape[0], query.shape[0]
    sample_of_token = torch.repeat_interleave(
        torch.arange(batch, device=hidden.device), ends - begins, output_size=hidden.shape[0]
    )

    z = F.linear(hidden, projection_weight, projection_bias.to(hidden.dtype)).to(precision).tanh()  # [T, C]
    has_tokens = begins < ends
    first = z.new_full((batch, z.shape[1]), math.nan)  # a sample without tokens gets NaN logits
    first[has_tokens] = z[begins[has_tokens]]

    scorer = torch.einsum("bk,hkc->bhc", first, query) + query_bias  # u_i [B, h, C]
    scores = torch.einsum("tc,thc->th", z, scorer[sample_of_token])  # [T, h]
    segments = sample_of_token[:, None].expand(-1, heads)
    largest = scores.new_full((batch, heads), -math.inf).scatter_reduce(0, segments, scores, "amax")
    attention = (scores - largest[sample_of_token]).exp()
    total = attention.new_zeros(batch, heads).index_add(0, sample_of_token, attention)
    pooled = z.new_zeros(batch, heads, z.shape[1]).index_add(0, sample_of_token, attention[:, :, None] * z[:, None, :])
    pooled = pooled / total[:, :, None]  # c_i [B, h, C]

    features = (pooled.flatten(1) @ value + value_bias).tanh()
    logits = F.linear(features, output_weight, output_bias)
    uncertainty = normalised_entropy(logits)
    return logits, uncertainty, ~(uncertainty < speed)


def compact(
    hidden: Tensor,
    cu_seqlens: Tensor,
    keep: Tensor,
    sample_index: Tensor,
    speed: Tensor,
    logits: Tensor,
    uncertainty: Tensor,
    layer: int,
    out_logits: Tensor,
    out_uncertainty: Tensor,
    out_exit_layer: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Survivors moved together, results of the others written to their place; see `fastbert_kernels.ops.compact`."""
    leaving = sample_index[~keep].long()
    out_logits[leaving] = logits[~keep]
    out_uncertainty[leaving] = uncertainty[~keep]
    out_exit_layer[leaving] = layer

    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).long()
    rows = hidden[torch.repeat_interleave(keep, lengths, output_size=hidden.shape[0])]
    survivors = int(keep.sum())

    new_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format)
    new_hidden[: rows.shape[0]] = rows
    new_cu_seqlens = torch.full_like(cu_seqlens, rows.shape[0])
    new_cu_seqlens[0] = 0
    new_cu_seqlens[1 : survivors + 1] = lengths[keep].cumsum(0)
    new_index = torch.zeros_like(sample_index)
    new_index[:survivors] = sample_index[keep]
    new_speed = torch.zeros_like(speed)
    new_speed[:survivors] = speed[keep]
    counts = torch.tensor([survivors, rows.shape[0]], dtype=torch.int32, device=hidden.device)
    return new_hidden, new_cu_seqlens, new_index, new_speed, counts

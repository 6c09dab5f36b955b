"""The ops in plain PyTorch: the specification, the oracle of the tests (in float64) and the fallback.

Symbols: T tokens of B samples in a packed batch; H hidden size; C narrow size of the head, h attention heads; N labels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels.addresses import check_bounds, check_rows
from fastbert_kernels.criteria import Criterion
from fastbert_kernels.layer_norm import LAYER_NORMS

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": F.gelu,
}

_COLUMN_GROUP = 32  # the most that a product in half precision takes at a time: a row of a tile register


def normalised_entropy(logits: Tensor) -> Tensor:
    """Return the uncertainty `-sum_c p_c log p_c / log N` of softmax(logits) (FastBERT, equation 7).

    Args:
        logits: [B, N], N >= 2.

    Returns:
        [B] in [0, 1], of the dtype of `logits`; NaN where a logit is NaN or +inf.
    """
    log_p = F.log_softmax(logits, dim=-1)
    p = log_p.exp()
    terms = torch.where(p == 0, 0, p * log_p)  # 0 log 0 = 0
    return (-terms.sum(dim=-1) / math.log(logits.shape[-1])).clamp(0, 1)


def binary_entropy(logits: Tensor) -> Tensor:
    """Return the mean over classes of the entropy of `p = sigmoid(logit)`, `-p log p - (1 - p) log(1 - p)`, over log 2.

    Args:
        logits: [B, N].

    Returns:
        [B] in [0, 1], of the dtype of `logits`; NaN where a logit is NaN or infinite.
    """
    # Of either sign the same; both terms are at least 0, so that nothing cancels.
    distance = logits.abs()
    terms = F.softplus(-distance) + distance * torch.sigmoid(-distance)
    return (terms.mean(dim=-1) / math.log(2)).clamp(0, 1)


def change_of_score(logits: Tensor, history: Tensor | None) -> Tensor:
    """Return how far the score is from that of the exit head before, in float32.

    Args:
        logits: [B, N], the first of which is the score.
        history: [B, 2] int32 of the head before, the bits of its score and whether there is one, or None.

    Returns:
        [B], of the dtype of `logits`; infinity where there was no head before, NaN where the score is not finite, or a
        logit is NaN or +inf.
    """
    score = logits[:, 0].float()
    change = torch.full_like(score, math.inf)
    if history is not None:
        change = torch.where(history[:, 1] > 0, (score - history[:, 0].contiguous().view(torch.float32)).abs(), change)
    valid = score.isfinite() & ~logits.isnan().any(dim=1) & ~logits.isposinf().any(dim=1)
    return torch.where(valid, change, math.nan).to(logits.dtype)


# What each criterion compares with Speed, or reports where it compares nothing, from logits [B, N] and its parameter.
# STABILITY, which looks at the head before, is not here.
UNCERTAINTIES: dict[Criterion, Callable[[Tensor, int], Tensor]] = {
    Criterion.ENTROPY: lambda logits, _: normalised_entropy(logits),
    Criterion.TOP_K_ENTROPY: lambda logits, k: normalised_entropy(logits.topk(min(k, logits.shape[-1]), dim=-1).values),
    Criterion.CONFIDENCE: lambda logits, _: 1 - F.softmax(logits, dim=-1).amax(dim=-1),
    Criterion.MARGIN: lambda logits, _: 1 + F.softmax(logits, dim=-1).topk(2, dim=-1).values.diff(dim=-1).squeeze(-1),
    Criterion.BINARY_ENTROPY: lambda logits, _: binary_entropy(logits),
    Criterion.PATIENCE: lambda logits, _: normalised_entropy(logits),
}


_BELOW_SPEED = frozenset(
    {
        *(Criterion.ENTROPY, Criterion.TOP_K_ENTROPY, Criterion.CONFIDENCE, Criterion.MARGIN),
        *(Criterion.BINARY_ENTROPY, Criterion.STABILITY),
    }
)


def _leaves(rule: Criterion, parameter: int, uncertainty: Tensor, streak: Tensor, speed: Tensor) -> Tensor:
    """Return who leaves, [B] bool."""
    if rule is Criterion.PATIENCE:
        return streak >= parameter
    if rule in _BELOW_SPEED:
        return uncertainty < speed
    raise NotImplementedError(f"fastbert_kernels/reference.py does not say whom {rule.value!r} lets out")


def decide(
    logits: Tensor, speed: Tensor, history: Tensor | None, criterion: str, parameter: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Decide which samples stay, from the logits of one exit head.

    Args:
        logits: [B, N].
        speed: [B] float32.
        history: [B, 2] int32 of the head before, or None at the first head.
        criterion: a name of `fastbert_kernels.criteria`.
        parameter: the number that belongs to it.

    Returns:
        uncertainty [B], of the dtype of `logits`; history [B, 2] int32: the prediction (the first class with the
        largest logit) and how many heads in a row made it, for STABILITY the bits of the score in float32 and 1; keep
        [B] bool. A sample whose uncertainty is NaN has the history -1 and 0, and stays.
    """
    rule = Criterion(criterion)
    if rule is Criterion.STABILITY:
        change = change_of_score(logits, history)
        score, known = logits[:, 0].float().view(torch.int32), ~change.isnan()
        keep = ~_leaves(rule, parameter, change, known.int(), speed)
        return change, torch.stack([torch.where(known, score, -1), known.int()], dim=1), keep
    uncertainty = UNCERTAINTIES[rule](logits, parameter)
    unknown = uncertainty.isnan()
    prediction = torch.where(unknown, -1, logits.argmax(dim=-1)).int()
    streak = torch.ones_like(prediction)
    if history is not None:
        streak = torch.where(prediction == history[:, 0], history[:, 1] + 1, streak)
    streak = torch.where(unknown, 0, streak)
    keep = ~_leaves(rule, parameter, uncertainty, streak, speed) | unknown
    return uncertainty, torch.stack([prediction, streak], dim=1), keep


class AttentiveHeadTensors(NamedTuple):
    """The folded weights of an attentive head, in the order in which the ops take them.

    All but the projection weight, query and value are float32, or float64 for hidden states in float64.
    """

    projection_weight: Tensor  # [C, H], of the dtype of the hidden states
    projection_bias: Tensor  # [C]
    query: Tensor  # [h, C, C], it and value of one dtype: float32 (float64), or that of the hidden states
    query_bias: Tensor  # [h, C]
    value: Tensor  # [h * C, C]
    value_bias: Tensor  # [C]
    output_weight: Tensor  # [N, C], N >= 2
    output_bias: Tensor  # [N]


def _deciding(logits_of: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Make an exit head of a function (hidden, cu_seqlens, *weights, **options) -> its logits [B, N].

    The head takes `speed` behind `cu_seqlens` and the last arguments of `decide` by their names.
    """

    @functools.wraps(logits_of)
    def head(
        hidden: Tensor,
        cu_seqlens: Tensor,
        speed: Tensor,
        *weights: Sequence[Tensor],
        history: Tensor | None = None,
        criterion: str = "entropy",
        parameter: int = 0,
        **options: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = logits_of(hidden, cu_seqlens, *weights, **options)
        return logits, *decide(logits, speed, history, criterion, parameter)

    del head.__wrapped__  # whose signature is not the head's
    return head


@_deciding
def attentive_head(
    hidden: Tensor,
    cu_seqlens: Tensor,
    weights: Sequence[Tensor],
    *,
    narrow_activation: str = "tanh",
    mlp_activation: str = "tanh",
) -> Tensor:
    """Evaluate the attentive head with folded weights on a packed batch; see `fastbert_kernels.ops.attentive_head`.

    Everything is float32, except that float64 input is computed in float64 (the oracle) and the projection runs in the
    dtype of `hidden`.
    """
    head = AttentiveHeadTensors(*weights)
    precision = torch.promote_types(hidden.dtype, torch.float32)
    query, value = head.query.to(precision), head.value.to(precision)
    hidden = hidden[: check_bounds(cu_seqlens, hidden.shape[0])]
    sample_of_token, begins, has_tokens = _samples(cu_seqlens, hidden.shape[0])
    batch, heads = begins.shape[0], query.shape[0]

    z = _project(hidden, head.projection_weight, head.projection_bias.to(hidden.dtype)).to(precision)
    z = ACTIVATIONS[narrow_activation](z)  # [T, C]
    first = _first_rows(z, begins, has_tokens)
    scorer = torch.einsum("bk,hkc->bhc", first, query) + head.query_bias  # u_i [B, h, C]
    scores = torch.einsum("tc,thc->th", z, scorer[sample_of_token])  # [T, h]
    segments = sample_of_token[:, None].expand(-1, heads)
    largest = scores.new_full((batch, heads), -math.inf).scatter_reduce(0, segments, scores, "amax")
    attention = (scores - largest[sample_of_token]).exp()
    total = attention.new_zeros(batch, heads).index_add(0, sample_of_token, attention)
    weighted = attention[:, :, None] * z[:, None, :]
    pooled = z.new_zeros(batch, heads, z.shape[1]).index_add(0, sample_of_token, weighted) / total[:, :, None]  # c_i

    features = ACTIVATIONS[mlp_activation](pooled.flatten(1) @ value + head.value_bias)
    return F.linear(features, head.output_weight, head.output_bias)


def _project(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `F.linear(rows, weight, bias)`, in which a row that is not finite reaches no other row.

    Products in half precision take columns in groups. Behind the last column of a row stands the next row's first, and
    a kernel that multiplies it by zero makes NaN of an infinity there. So no group is left incomplete.
    """
    missing = -rows.shape[1] % _COLUMN_GROUP if rows.dtype in (torch.bfloat16, torch.float16) else 0
    if missing:
        rows, weight = F.pad(rows, (0, missing)), F.pad(weight, (0, missing))
    return F.linear(rows, weight, bias)


@_deciding
def pooled_exit_head(
    hidden: Tensor,
    cu_seqlens: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    pooling: str = "first",
    activation: str = "tanh",
) -> Tensor:
    """Evaluate the pooled head on a packed batch; see `fastbert_kernels.ops.pooled_exit_head`.

    Linear layers are float32.
    """
    features = pool(hidden, cu_seqlens, pooling)
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if number:
            features = ACTIVATIONS[activation](features)
        features = F.linear(features, weight.to(features.dtype), bias)
    return features


def pool(hidden: Tensor, cu_seqlens: Tensor, pooling: str) -> Tensor:
    """Return the first row, mean or maximum of each sample's rows, [B, H] float32 (float64 for float64); NaN without
    tokens."""
    rows = hidden[: check_bounds(cu_seqlens, hidden.shape[0])]
    rows = rows.to(torch.promote_types(hidden.dtype, torch.float32))
    sample_of_token, begins, has_tokens = _samples(cu_seqlens, rows.shape[0])
    if pooling == "first":
        return _first_rows(rows, begins, has_tokens)
    pooled = rows.new_full((begins.shape[0], rows.shape[1]), math.nan)
    reduce = {"mean": "mean", "max": "amax"}[pooling]
    return pooled.scatter_reduce(0, sample_of_token[:, None].expand_as(rows), rows, reduce, include_self=False)


def _samples(cu_seqlens: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sample of each token [T], and for each sample its first row [B] and whether it has any [B]."""
    begins, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    samples = torch.arange(begins.shape[0], device=cu_seqlens.device)
    return torch.repeat_interleave(samples, ends - begins, output_size=tokens), begins, begins < ends


def _first_rows(rows: Tensor, begins: Tensor, has_tokens: Tensor) -> Tensor:
    first = rows.new_full((begins.shape[0], rows.shape[1]), math.nan)
    first[has_tokens] = rows[begins[has_tokens]]
    return first


def hashed_bag(
    table: Tensor, bias: Tensor, input_ids: Tensor, cu_seqlens: Tensor, speed: Tensor, *, criterion: str, parameter: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classify texts by their hashed tokens and pairs of neighbours; see `ops.hashed_bag`.

    The row for a token is that of `hashed_buckets(token, 0)`, for a pair that of `hashed_buckets(first, 1 + second)`.
    """
    tokens, buckets = input_ids.shape[0], table.shape[0]
    last = check_bounds(cu_seqlens, tokens)
    ids, (sample, _, has_tokens) = input_ids[:last].long(), _samples(cu_seqlens, last)
    sums = bias.new_zeros(len(speed), len(bias)).index_add(0, sample, table[hashed_buckets(ids, 0, buckets)])
    pairs = table[hashed_buckets(ids[:-1], ids[1:] + 1, buckets)]
    neighbours = sample[1:] == sample[:-1]
    sums = sums.index_add(0, sample[1:][neighbours], pairs[neighbours])
    counts = 2 * cu_seqlens.diff() - 1
    logits = sums / counts.clamp(min=1).to(sums.dtype).sqrt()[:, None] + bias
    logits = torch.where(has_tokens[:, None], logits, math.nan)
    return logits, *decide(logits, speed, None, criterion, parameter)


def hashed_buckets(token: Tensor, following: Tensor | int, buckets: int) -> Tensor:
    """Return rows of a hashed bag's table, int64 in 0..buckets - 1: a mix of both numbers, 32 bits without sign.

    Args:
        token: int64.
        following: int64, or 0.
        buckets: a power of 2.
    """
    bits = 0xFFFFFFFF
    x = (token * 0x9E3779B1 + following * 0x85EBCA77) & bits
    x = ((x ^ (x >> 15)) * 0x2C1B3C6D) & bits
    x = ((x ^ (x >> 12)) * 0x297A2D39) & bits
    return (x ^ (x >> 15)) & (buckets - 1)


def embed(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    *tables: Tensor,
    layer_norm_eps: float,
    dtype: torch.dtype,
    layer_norm: str,
) -> Tensor:
    """Embed packed tokens; see `fastbert_kernels.ops.embed`."""
    words, positions, segments, norm_weight, norm_bias = tables
    if token_type_ids is None:
        if segments.shape[0] == 0 and input_ids.numel() > 0:
            raise IndexError("segments has no row, but without token_type_ids every token takes row 0")
        token_type_ids = torch.zeros_like(input_ids)
    check_rows("input_ids", input_ids, words.shape[0])
    check_rows("position_ids", position_ids, positions.shape[0])
    check_rows("token_type_ids", token_type_ids, segments.shape[0])
    rows = words[input_ids] + positions[position_ids] + segments[token_type_ids]
    return LAYER_NORMS[layer_norm](rows, norm_weight, norm_bias, layer_norm_eps).to(dtype)


def compact(
    hidden: Tensor,
    cu_seqlens: Tensor,
    keep: Tensor,
    sample_index: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Move survivors together and write the results of the others; see `fastbert_kernels.ops.compact`."""
    speed, history, logits, uncertainty, layer, out_logits, out_uncertainty, out_exit_layer = rest
    end = check_bounds(cu_seqlens, hidden.shape[0])
    check_rows("sample_index", sample_index, out_logits.shape[0])
    leaving = sample_index[~keep].long()
    out_logits[leaving] = logits[~keep]
    out_uncertainty[leaving] = uncertainty[~keep]
    out_exit_layer[leaving] = layer

    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).long()
    rows = hidden[:end][torch.repeat_interleave(keep, lengths, output_size=end)]
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
    new_history = torch.zeros_like(history)
    new_history[:survivors] = history[keep]
    counts = torch.tensor([survivors, rows.shape[0]], dtype=torch.int32, device=hidden.device)
    return new_hidden, new_cu_seqlens, new_index, new_speed, new_history, counts

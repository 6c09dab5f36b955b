"""Comparisons that tests of several backends and devices share."""

from __future__ import annotations

import contextlib
import unittest.mock

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels import ops, reference
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.dtypes import hidden_dtype, int8_products
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.rule import FULL_DEPTH
from fastbert_kernels.engine.weights import PooledHeadWeights
from helpers.op_inputs import cast_attentive_head_inputs, cu_seqlens_of, map_tensors
from helpers.rounding import rivals

# The smallest error worth telling from zero per dtype of the hidden states, relative to the largest value: a few units
# in its last place.
FLOOR = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}


def floor(want, dtype):
    return FLOOR[dtype] * max(1.0, float(want.abs().max()))


def assert_mean_error_is_like(got, own, want):
    """Let many answers of a patched model have at most twice the mean error of the unpatched model's `own`, beside an
    error so small that whether the unpatched model's is below it is up to the processor; `want` is in float64."""
    least = floor(want, torch.float32) / 20
    error, theirs = ((answers - want).abs().mean() for answers in (got, own))
    assert error <= 2 * theirs + least, f"mean error {error:.2e}, of the unpatched model {theirs:.2e}"


def to_double(inputs):
    """Hidden states and weights in float64; indices and Speed as they are."""
    hidden, cu_seqlens, speed, head = inputs
    return [hidden.double(), cu_seqlens, speed, map_tensors(Tensor.double, head)]


def assert_accurate(got, want, theirs, least=0.0, mean_least=None):
    """Error at most twice the largest of plain PyTorch in the same dtype.

    Args:
        got: the result to judge.
        want: the same in float64.
        theirs: results of plain PyTorch as `rounding.rivals` has them.
        least: an error that is allowed beside.
        mean_least: the same for the mean error, which else is not compared.

    Returns:
        The largest error that was allowed.
    """
    error, *errors = ((result.double() - want).abs() for result in (got, *theirs))
    allowed = 2 * torch.stack([other.max() for other in errors]).max() + least
    assert error.max() <= allowed, f"error {error.max():.2e}, plain PyTorch allows {allowed:.2e}"
    if mean_least is not None:
        mean = 2 * torch.stack([other.mean() for other in errors]).max() + mean_least
        assert error.mean() <= mean, f"mean error {error.mean():.2e}, plain PyTorch allows {mean:.2e}"
    return allowed


def assert_decisions_are_accurate(result, oracle, theirs, speed, dtype):
    """Judge logits, uncertainty and decisions of an exit head; `theirs` as `rounding.rivals` has them."""
    for got, want, rivaling in zip(result[:2], oracle, zip(*theirs, strict=True), strict=False):
        assert got.dtype == torch.float32
        allowed = assert_accurate(got, want, rivaling, floor(want, dtype))
    close = (oracle[1] - speed).abs() <= allowed
    assert torch.equal(result[3] | close, oracle[3] | close)


def assert_attentive_head_is_accurate(inputs, dtype, backend, device="cpu", **options):
    """Error against float64 at most twice that of plain PyTorch in the same dtype, on the same device.

    Args:
        inputs: as `op_inputs.attentive_head_inputs` makes them.
        options: of ops.attentive_head.
    """
    cast = map_tensors(lambda x: x.to(device), cast_attentive_head_inputs(inputs, dtype))
    # The oracle sees the values that the kernel sees: rounding of the inputs is not the kernel's error.
    oracle = reference.attentive_head(*to_double(cast), **options)
    theirs = rivals(lambda: reference.attentive_head(*cast, **options), answers=oracle[0].numel())
    result = ops.attentive_head(*cast, **options, backend=backend)
    assert_decisions_are_accurate(result, oracle, theirs, cast[2], dtype)


def assert_pooled_exit_head_is_accurate(inputs, dtype, backend, **options):
    """The same for ops.pooled_exit_head; `inputs` are of that dtype and on their device already."""
    hidden, cu_seqlens, speed, weights, biases = inputs
    doubled = [hidden.double(), cu_seqlens, speed, [w.double() for w in weights], [b.double() for b in biases]]
    oracle = reference.pooled_exit_head(*doubled, **options)
    theirs = rivals(lambda: reference.pooled_exit_head(*inputs, **options), answers=oracle[0].numel())
    result = ops.pooled_exit_head(*inputs, **options, backend=backend)
    assert_decisions_are_accurate(result, oracle, theirs, speed, dtype)


def assert_encoder_layer_is_accurate(weights, lengths, dtype):
    """The compiled layer against float64, with an error at most twice that of the layer in plain PyTorch calls in the
    same dtype; for int8, of these calls in bfloat16 with Linear layers as `rounded_linear` has them.

    Args:
        weights: as `op_inputs.layer_weights` makes them.
        lengths: of the samples, none of them 0.
    """
    hidden = torch.randn(sum(lengths), weights.qkv_weight.shape[1], dtype=torch.float64)
    bounds = cu_seqlens_of(lengths)
    rows = hidden_dtype(dtype, torch.float32)
    seen = hidden.to(rows)  # rounding of the input is not the layer's error
    want = TorchLayer(weights)(seen.double(), bounds, max(lengths))
    plain = TorchLayer.cast(weights, rows)
    with rounded_linear() if dtype == torch.int8 else contextlib.nullcontext():
        theirs = rivals(lambda: plain(seen, bounds, max(lengths)), answers=want.numel())
    got = packed_layer(weights, dtype)(seen, bounds)
    assert got.dtype == rows
    unit = FLOOR[rows] * want.abs().max()
    # The mean of a few values says little, and which layer rounds worst is chance, 1 in 200 small ones: roundings of
    # the last place that fall out otherwise move a mean of n values by one of them over the root of n.
    mean_least = unit * (1 / 20 + 2 / want.numel() ** 0.5)
    assert_accurate(got, want, theirs, least=2 * unit, mean_least=mean_least)


def packed_layer(weights, dtype):
    """The compiled layer for an `EncoderDtype`: an encoder is advanced behind its first and read."""
    single, width = TorchLayer.cast(weights, torch.float32).weights, weights.qkv_weight.shape[1]
    head = PooledHeadWeights((torch.ones(2, width),), (torch.zeros(2),), "first", "tanh")
    rows = hidden_dtype(dtype, torch.float32)
    encoder = CompiledEncoder([single, None], [None, head], rows, int8_products(dtype))

    def layer(hidden, cu_seqlens):
        state = encoder.start(PackedBatch.of(hidden, cu_seqlens, hidden.shape[0], 0.0), FULL_DEPTH)
        encoder.advance(state, 1)
        return state.batch.hidden

    return layer


@contextlib.contextmanager
def rounded_linear():
    """Meanwhile Linear layers round their weights to 8 bits per output channel, and their rows to 8 bits between their
    own extremes."""

    def round_rows(x):
        low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
        step = (high - low) / 255
        return (x / step).round() * step

    def round_channels(weight):
        step = weight.abs().amax(1, keepdim=True) / 127
        return (weight / step).round() * step

    def linear(x, weight, bias=None):
        return exact(round_rows(x.double()), round_channels(weight.double()), bias.double()).to(x.dtype)

    exact = F.linear
    with unittest.mock.patch.object(F, "linear", linear):
        yield


def on_cpu(values):
    return [value.cpu() if isinstance(value, torch.Tensor) else value for value in values]


def check_compaction(inputs, backend):
    """ops.compact on the device of `inputs` against a loop over samples in Python."""
    given = on_cpu(inputs)  # copies from a GPU, where the loop would wait for the device at every number
    before = [out.clone() for out in given[-3:]]
    new_hidden, new_cu, new_index, new_speed, new_history, counts = on_cpu(ops.compact(*inputs, backend=backend))
    hidden, cu_seqlens, keep, sample_index, speed, history, logits, uncertainty, layer, *_ = given
    rows, index, speeds, bounds = [], [], [], [0]
    for b in range(len(keep)):
        if keep[b]:
            rows.append(hidden[cu_seqlens[b] : cu_seqlens[b + 1]])
            index.append(int(sample_index[b]))
            speeds.append(speed[b])
            bounds.append(bounds[-1] + rows[-1].shape[0])
        else:
            row = int(sample_index[b])
            before[0][row], before[1][row], before[2][row] = logits[b], uncertainty[b], layer
    survivors, tokens = len(index), bounds[-1]
    assert counts.dtype == torch.int32 and counts.tolist() == [survivors, tokens]
    assert new_hidden.shape == hidden.shape and new_cu.shape == cu_seqlens.shape
    if rows:
        assert torch.equal(new_hidden[:tokens], torch.cat(rows))
    padding = len(keep) - survivors
    assert new_cu.tolist() == bounds + [tokens] * padding
    assert new_index.tolist() == index + [0] * padding
    assert new_history.tolist() == history[keep].tolist() + [[0, 0]] * padding
    assert new_speed.tolist() == [float(s) for s in speeds] + [0.0] * padding
    for got, want in zip(on_cpu(inputs[-3:]), before, strict=True):
        assert torch.equal(got, want)

"""Comparisons that tests of several backends and devices share."""

from __future__ import annotations

import torch

from fastbert_kernels import ops, reference
from support import cast_exit_head_inputs

# The smallest error worth telling from zero per dtype of the hidden states, relative to the largest value: a few units
# in its last place.
FLOOR = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}


def floor(want, dtype):
    return FLOOR[dtype] * max(1.0, float(want.abs().max()))


def to_double(inputs):
    """Hidden states and weights in float64; indices and Speed (argument 2) as they are."""
    return [x.double() if i != 2 and x.is_floating_point() else x for i, x in enumerate(inputs)]


def assert_exit_head_is_accurate(inputs, dtype, backend, device="cpu", **options):
    """Error against float64 at most twice that of plain PyTorch in the same dtype, on the same device.

    Args:
        inputs: as `support.exit_head_inputs` makes them.
        options: of ops.exit_head.
    """
    cast = [x.to(device) for x in cast_exit_head_inputs(inputs, dtype)]
    # The oracle sees the values that the kernel sees: rounding of the inputs is not the kernel's error.
    oracle = reference.exit_head(*to_double(cast), **options)
    plain = reference.exit_head(*cast, **options)
    result = ops.exit_head(*cast, **options, backend=backend)
    for name, got, want, theirs in zip(("logits", "uncertainty"), result, oracle, plain, strict=False):
        assert got.dtype == torch.float32
        error, allowed = (got - want).abs().max(), 2 * (theirs - want).abs().max() + floor(want, dtype)
        assert error <= allowed, f"{name}: error {error:.2e}, plain PyTorch allows {allowed:.2e}"
    close = (oracle[1] - cast[2]).abs() < 10 * FLOOR[dtype]
    assert torch.equal(result[3] | close, oracle[3] | close)


def assert_pooled_exit_head_is_accurate(inputs, dtype, backend, **options):
    """The same for ops.pooled_exit_head; `inputs` are of that dtype and on their device already."""
    hidden, cu_seqlens, speed, weights, biases = inputs
    doubled = [hidden.double(), cu_seqlens, speed, [w.double() for w in weights], [b.double() for b in biases]]
    oracle = reference.pooled_exit_head(*doubled, **options)
    plain = reference.pooled_exit_head(*inputs, **options)
    result = ops.pooled_exit_head(*inputs, **options, backend=backend)
    for got, want, theirs in zip(result[:2], oracle, plain, strict=False):
        assert got.dtype == torch.float32
        assert (got - want).abs().max() <= 2 * (theirs - want).abs().max() + floor(want, dtype)
    close = (oracle[1] - speed).abs() < 10 * FLOOR[dtype]
    assert torch.equal(result[3] | close, oracle[3] | close)


def check_compaction(inputs, backend):
    """ops.compact against a loop over samples in Python, on the device of `inputs`."""
    hidden, cu_seqlens, keep, sample_index, speed, history, logits, uncertainty, layer, *outs = inputs
    before = [out.clone() for out in outs]
    new_hidden, new_cu, new_index, new_speed, new_history, counts = ops.compact(*inputs, backend=backend)
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
    for got, want in zip(outs, before, strict=True):
        assert torch.equal(got, want)

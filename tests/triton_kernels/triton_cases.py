"""What the tests of the interpreted Triton kernels share."""

from __future__ import annotations

import functools
import math
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastbert_kernels import backends, ops, reference
from fastbert_kernels.backends import Backend
from helpers.accuracy import assert_accurate
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs, map_tensors
from helpers.rounding import rivals
from helpers.triton_interpreter import INTERPRETING

LENGTHS = [1, 5, 0, 63, 64, 65, 129]  # up to three tiles of 64 tokens, or five of 32
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The smallest error worth telling from zero: a few units in the last place of a float32 logit.
FLOOR = 4e-6
FIXTURES_AND_SUBCLASSES = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


class EveryShape:
    """Tests of an attentive head on batches and heads of every shape; `check` compares the answers to such inputs in a
    dtype."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("hidden_size", "narrow", "heads", "labels"),
        [(64, 64, 1, 2), (192, 128, 2, 3), (200, 128, 3, 5), (136, 256, 8, 100), (8, 64, 6, 40)],
    )
    def test_accuracy_on_odd_lengths(self, dtype, hidden_size, narrow, heads, labels):
        self.check(attentive_head_inputs(LENGTHS, hidden_size, narrow, heads, labels), dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_largest_sizes(self, dtype):
        self.check(attentive_head_inputs([140], 1024, 256, 8, 1031), dtype)

    @pytest.mark.parametrize("lengths", [[], [1], [0], [0, 0, 7]])
    def test_small_batches(self, lengths):
        self.check(attentive_head_inputs(lengths), torch.float32)

    @settings(max_examples=12, deadline=None, suppress_health_check=FIXTURES_AND_SUBCLASSES)
    @given(
        lengths=st.lists(st.integers(0, 140), max_size=4),
        hidden_size=st.integers(1, 12).map(lambda n: 8 * n),
        narrow=st.sampled_from([64, 128, 256]),
        heads=st.integers(1, 8),
        labels=st.integers(2, 70),
        dtype=st.sampled_from(DTYPES),
    )
    def test_any_shape(self, lengths, hidden_size, narrow, heads, labels, dtype):
        self.check(attentive_head_inputs(lengths, hidden_size, narrow, heads, labels), dtype)


if INTERPRETING:  # the backend takes CPU tensors then
    backends.BACKENDS["triton"] = Backend("triton", "cpu", lambda: None)
attentive_head = partial(ops.attentive_head, backend="triton")
pooled_exit_head = partial(ops.pooled_exit_head, backend="triton")
compact = partial(ops.compact, backend="triton")


def in_double(inputs):
    """The same values in float64 (Speed stays float32), so that rounding of the inputs is not the kernel's error."""
    hidden, cu_seqlens, speed, head = inputs
    return [hidden.double(), cu_seqlens, speed, map_tensors(torch.Tensor.double, head)]


def assert_as_accurate_as_pytorch(inputs, dtype, fold_dtype=torch.float32, more_rows=0, floor=FLOOR, **options):
    """Error against float64 at most twice that of plain PyTorch in the same dtype; query and value in `fold_dtype`.

    The kernel sees `more_rows` rows of NaN after those of the samples.
    """
    cast = cast_attentive_head_inputs(inputs, dtype)
    head = cast[3]
    cast[3] = head._replace(query=head.query.to(fold_dtype), value=head.value.to(fold_dtype))
    oracle = reference.attentive_head(*in_double(cast), **options)
    theirs = rivals(functools.partial(reference.attentive_head, *cast, **options), answers=oracle[0].numel())
    cast[0] = torch.cat([cast[0], torch.full((more_rows, cast[0].shape[1]), math.nan, dtype=dtype)])
    result = attentive_head(*cast, **options)
    filled = cast[1].diff() > 0
    allowed = 0.0
    for got, want, rival in zip(result[:2], oracle, zip(*theirs, strict=True), strict=False):
        assert got.dtype == torch.float32 and got.shape == want.shape
        assert got[~filled].isnan().all()
        if filled.any():
            allowed = assert_accurate(got[filled], want[filled], [other[filled] for other in rival], floor)
    history, keep = result[2:]
    assert history.dtype == torch.int32 and history[~filled].tolist() == [[-1, 0]] * int((~filled).sum())
    two_best = oracle[0][filled].topk(2).values
    clear = two_best[:, 0] - two_best[:, 1] > 10 * FLOOR
    assert torch.equal(history[filled][clear], oracle[2][filled][clear])
    close = (oracle[1] - cast[2]).abs() <= allowed
    assert keep.dtype == torch.bool and torch.equal(keep | close, oracle[3] | close)
    assert keep[~filled].all()


def assert_bad_bounds_are_a_sample_without_tokens(run):
    """`run` answers to the bounds of four samples with 3, 5, 4 and 2 rows."""
    good = run(torch.tensor([0, 3, 8, 12, 14], dtype=torch.int32))
    for bounds, bad, same in (([0, 3, 8, 12, 15], [3], [0, 1, 2]), ([-1, 9, 8, 12, 14], [0, 1], [2, 3])):
        told = run(torch.tensor(bounds, dtype=torch.int32))
        assert all(torch.equal(one[same], other[same]) for one, other in zip(told, good, strict=True))
        logits, uncertainty, history, keep = (tensor[bad] for tensor in told)
        assert logits.isnan().all() and uncertainty.isnan().all() and keep.all()
        assert history.tolist() == [[-1, 0]] * len(bad)


def moved(inputs, rows):
    """The same batch, so many rows further on: beyond 2^31 elements and bytes. Memory that nothing touches is only
    addresses."""
    hidden = torch.empty(rows + inputs[0].shape[0], inputs[0].shape[1], dtype=inputs[0].dtype)
    hidden[rows:] = inputs[0]
    return [hidden, inputs[1] + rows, *inputs[2:]]

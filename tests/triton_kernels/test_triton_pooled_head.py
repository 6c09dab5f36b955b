"""The Triton pooled head: interpreted on the CPU against float64 (tier 2)."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("triton.language", reason="triton is not installed")

from triton_cases import DTYPES, FLOOR, assert_bad_bounds_are_a_sample_without_tokens, moved, pooled_exit_head

from fastbert_kernels import reference
from helpers.accuracy import assert_accurate
from helpers.criteria import EVERY_OF_CLASSES
from helpers.op_inputs import pooled_inputs
from helpers.rounding import rivals
from helpers.triton_interpreter import INTERPRETING, interpreted_elsewhere

test_everything_interpreted_in_a_process_of_its_own = interpreted_elsewhere(__file__)


@pytest.mark.usefixtures("poisoned_memory")
class TestPooledExitHead:
    __test__ = INTERPRETING

    def check(self, inputs, **options):
        hidden, cu_seqlens, speed, weights, biases = inputs
        doubled = [hidden.double(), cu_seqlens, speed, [w.double() for w in weights], [b.double() for b in biases]]
        oracle = reference.pooled_exit_head(*doubled, **options)
        theirs = rivals(lambda: reference.pooled_exit_head(*inputs, **options), answers=oracle[0].numel())
        result = pooled_exit_head(*inputs, **options)
        filled = cu_seqlens.diff() > 0
        assert result[0][~filled].isnan().all() and result[1][~filled].isnan().all() and result[3][~filled].all()
        assert result[2][~filled].tolist() == [[-1, 0]] * int((~filled).sum())
        for got, want, rival in zip(result[:2], oracle, zip(*theirs, strict=True), strict=False):
            floor = FLOOR * max(1, want[filled].abs().max())
            allowed = assert_accurate(got[filled], want[filled], [other[filled] for other in rival], floor)
        close = (oracle[1] - speed).abs() <= allowed
        assert torch.equal(result[3] | close, oracle[3] | close)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("pooling", ["first", "mean", "max"])
    @pytest.mark.parametrize("sizes", [(48, 2), (300, 40, 3), (136, 64, 32, 70)])
    def test_accuracy(self, dtype, pooling, sizes):
        self.check(pooled_inputs([1, 5, 0, 17, 33], sizes, dtype), pooling=pooling)

    @pytest.mark.parametrize(
        ("dtype", "pooling", "layers"),
        [(torch.float32, "mean", 1), (torch.bfloat16, "max", 2), (torch.float16, "first", 3)],
    )
    def test_the_largest_sizes(self, dtype, pooling, layers):
        self.check(pooled_inputs([70, 1], (*[1024] * layers, 1031), dtype), pooling=pooling)

    @pytest.mark.parametrize("activation", ["identity", "tanh", "relu", "gelu"])
    @pytest.mark.parametrize("options", EVERY_OF_CLASSES, ids=str)
    def test_activations_and_criteria(self, activation, options):
        history = torch.tensor([[0, 1], [1, 2], [2, 1]]).int()
        inputs = pooled_inputs([3, 4, 2], (24, 40, 9), torch.float32)
        self.check(inputs, activation=activation, history=history, **options)

    @pytest.mark.parametrize("pooling", ["first", "mean", "max"])
    def test_a_nan_stays_in_its_sample(self, pooling):
        inputs = pooled_inputs([4, 3, 5], (16, 3), torch.float32)
        good = pooled_exit_head(*inputs, pooling=pooling)
        inputs[0][4] = math.nan
        logits, uncertainty, history, keep = pooled_exit_head(*inputs, pooling=pooling)
        assert logits[1].isnan().all() and uncertainty[1].isnan() and keep[1] and history[1].tolist() == [-1, 0]
        assert torch.equal(logits[[0, 2]], good[0][[0, 2]])

    @pytest.mark.parametrize("pooling", ["first", "mean", "max"])
    def test_bounds_that_leave_the_rows(self, pooling):
        hidden, _, speed, weights, biases = pooled_inputs([3, 5, 4, 2], (16, 3), torch.float32)
        assert_bad_bounds_are_a_sample_without_tokens(
            lambda bounds: pooled_exit_head(hidden, bounds, speed, weights, biases, pooling=pooling)
        )

    def test_no_sample(self):
        assert pooled_exit_head(*pooled_inputs([], (16, 3), torch.float32))[0].shape == (0, 3)


class TestFarInMemory:
    """Rows beyond 2^31 elements and bytes."""

    __test__ = INTERPRETING

    @pytest.mark.parametrize("pooling", ["first", "mean", "max"])
    def test_far_in_memory(self, pooling):
        inputs = pooled_inputs([9], (1024, 3), torch.bfloat16)
        distant = moved(inputs, 2**21 + 5)
        want = pooled_exit_head(*inputs, pooling=pooling)
        for got, expected in zip(pooled_exit_head(*distant, pooling=pooling), want, strict=True):
            assert torch.equal(got, expected)

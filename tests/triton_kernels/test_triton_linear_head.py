"""The Triton exit head without activations, which never projects its tokens: interpreted on the CPU against float64
(tier 2)."""

from __future__ import annotations

import math
import sys

import pytest
import torch

pytest.importorskip("triton.language", reason="triton is not installed")

from triton_cases import DTYPES, FLOOR, EveryShape, assert_as_accurate_as_pytorch, attentive_head

from fastbert_kernels.triton import configs
from helpers.criteria import EVERY_OF_CLASSES
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs
from helpers.triton_interpreter import INTERPRETING, interpreted_elsewhere

test_everything_interpreted_in_a_process_of_its_own = interpreted_elsewhere(__file__)


@pytest.fixture
def no_projecting_kernel(monkeypatch):
    """The head fails where it would project the tokens."""
    monkeypatch.setattr(sys.modules["fastbert_kernels.triton.attentive_head"], "pool_projected", None)


def assert_linear_head_is_accurate(inputs, dtype, **options):
    """With so many rows in the batch that 16 bits do not project either. Their float32 vectors are rounded to 17 bits
    at the least."""
    tile = configs.attentive_head(inputs[0].to(dtype), 1, inputs[3].query.shape[1]).block_tokens
    options |= {"narrow_activation": "identity", "more_rows": (3 * tile + 1) * len(inputs[2])}
    assert_as_accurate_as_pytorch(inputs, dtype, floor=FLOOR if dtype == torch.float32 else 5e-5, **options)


@pytest.mark.usefixtures("poisoned_memory", "no_projecting_kernel")
class TestLinearAttentiveHead(EveryShape):
    __test__ = INTERPRETING
    check = staticmethod(assert_linear_head_is_accurate)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_half_precision_queries_and_an_mlp_without_activation(self, dtype):
        assert_linear_head_is_accurate(
            attentive_head_inputs([5, 0, 70]), dtype, fold_dtype=dtype, mlp_activation="identity"
        )

    @pytest.mark.parametrize("options", EVERY_OF_CLASSES, ids=str)
    def test_criteria(self, options):
        history = torch.tensor([[0, 1], [1, 2], [2, 1]]).int()
        assert_linear_head_is_accurate(
            attentive_head_inputs([3, 4, 2], labels=9), torch.float32, history=history, **options
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("row", [4, 5, 73])  # first token, second token, a later tile of the middle sample
    def test_a_bad_sample_leaves_its_neighbours_alone(self, dtype, bad, row):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 70, 5]), dtype)
        inputs[0] = torch.cat([inputs[0], inputs[0].new_zeros(600, 48)])
        inputs[2].fill_(1.0)
        good = attentive_head(*inputs, narrow_activation="identity")
        inputs[0][row, 3] = bad
        result = attentive_head(*inputs, narrow_activation="identity")
        assert all(torch.equal(got[[0, 2]], want[[0, 2]]) for got, want in zip(result, good, strict=True))
        logits, uncertainty, history, keep = (tensor[1] for tensor in result)
        assert logits.isnan().all() and uncertainty.isnan() and keep and history.tolist() == [-1, 0]

    def test_sums_of_tokens_may_leave_the_range_of_float16(self):
        inputs = attentive_head_inputs([600])
        inputs[0] = 300 + 0 * inputs[0]
        inputs[3].projection_weight.div_(300)
        assert_linear_head_is_accurate(inputs, torch.float16)

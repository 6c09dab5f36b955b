"""The Triton exit head: interpreted on the CPU against float64 (tier 2)."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch

pytest.importorskip("triton.language", reason="triton is not installed")

from triton_cases import (
    DTYPES,
    EveryShape,
    assert_as_accurate_as_pytorch,
    assert_bad_bounds_are_a_sample_without_tokens,
    attentive_head,
    in_double,
    moved,
)

from fastbert_kernels import reference
from fastbert_kernels.triton import configs
from helpers.criteria import CHANGES, EVERY_CRITERION, EVERY_OF_CLASSES, EXACT_MARGINS, OF_ONE_CHOICE, SCORES, STABLE
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs, map_tensors
from helpers.triton_interpreter import INTERPRETING, interpreted_elsewhere

test_everything_interpreted_in_a_process_of_its_own = interpreted_elsewhere(__file__)


def head_of_logits(head):
    """A head whose logits are its output bias, all 0, and that bias."""
    bias = torch.zeros_like(head.output_bias)
    return head._replace(output_weight=torch.zeros_like(head.output_weight), output_bias=bias), bias


@pytest.mark.usefixtures("poisoned_memory")
class TestAttentiveHead(EveryShape):
    __test__ = INTERPRETING
    check = staticmethod(assert_as_accurate_as_pytorch)

    @pytest.mark.parametrize("architecture", [80, 90, 100])
    @pytest.mark.parametrize("lengths", [[3, 64, 20], [70, 130, 128]])
    @pytest.mark.parametrize(("dtype", "narrow"), [(torch.bfloat16, 64), (torch.bfloat16, 128), (torch.float32, 128)])
    def test_tiles_of_every_architecture(self, monkeypatch, architecture, lengths, dtype, narrow):
        monkeypatch.setattr(configs, "_capability", lambda device: architecture)
        assert_as_accurate_as_pytorch(attentive_head_inputs(lengths, 72, narrow), dtype)

    @pytest.mark.parametrize("narrow_activation", ["tanh", "identity"])
    @pytest.mark.parametrize("mlp_activation", ["tanh", "identity"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_activations_and_half_precision_queries(self, narrow_activation, mlp_activation, dtype):
        activations = {"narrow_activation": narrow_activation, "mlp_activation": mlp_activation}
        assert_as_accurate_as_pytorch(attentive_head_inputs([5, 0, 70]), dtype, fold_dtype=dtype, **activations)

    @pytest.mark.parametrize("labels", [2, 7, 150])
    @pytest.mark.parametrize(
        "options",
        EVERY_OF_CLASSES
        + [{"criterion": "patience", "parameter": 3}]
        + [{"criterion": "top_k_entropy", "parameter": k} for k in (5, 40, 2000)],
    )
    def test_criteria(self, options, labels):
        """The histories are of the same prediction, once and twice, and of another."""
        inputs = attentive_head_inputs([3, 1, 9, 0, 2, 4], labels=labels)
        prediction = reference.attentive_head(*inputs, **options)[2][:, 0]
        other = (prediction + 1) % labels
        previous = torch.where(torch.arange(6) % 3 < 2, prediction, other)
        history = torch.stack([previous, torch.tensor([1, 2, 8] * 2).int()], dim=1)
        assert_as_accurate_as_pytorch(inputs, torch.float32, history=history, **options)

    @pytest.mark.parametrize("options", [*EVERY_OF_CLASSES, {"criterion": "top_k_entropy", "parameter": 1030}])
    def test_criteria_among_many_classes(self, options):
        assert_as_accurate_as_pytorch(attentive_head_inputs([2, 3], labels=1031), torch.float32, **options)

    def test_equal_logits(self):
        """The first label with the largest logit is the prediction; a cut among equals counts the right number."""
        inputs = cast_attentive_head_inputs(attentive_head_inputs([2], labels=50), torch.float32)
        inputs[3], bias = head_of_logits(inputs[3])
        bias[20:45] = 1.5
        bias[3:6] = -0.0
        assert attentive_head(*inputs)[2].tolist() == [[20, 1]]
        for top_k in (2, 25, 26, 49):
            options: dict[str, Any] = {"criterion": "top_k_entropy", "parameter": top_k}
            want = reference.attentive_head(*in_double(inputs), **options)[1].float()
            torch.testing.assert_close(attentive_head(*inputs, **options)[1], want, rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        ("dtype", "lengths", "projects"),
        [(torch.bfloat16, [189, 195], True), (torch.bfloat16, [190, 195], False), (torch.float32, [1, 1], False)],
    )
    def test_without_activation_16_bits_project_up_to_three_tiles(self, monkeypatch, dtype, lengths, projects):
        """Of 64 tokens, on average over the samples."""
        other = "pool_unprojected" if projects else "pool_projected"
        monkeypatch.setattr(sys.modules["fastbert_kernels.triton.attentive_head"], other, None)
        assert_as_accurate_as_pytorch(
            attentive_head_inputs(lengths, 8), dtype, floor=1e-3, narrow_activation="identity"
        )

    @pytest.mark.parametrize("narrow_activation", ["tanh", "identity"])
    def test_bounds_that_leave_the_rows(self, narrow_activation):
        hidden, _, speed, head = cast_attentive_head_inputs(attentive_head_inputs([3, 5, 4, 2]), torch.float32)
        assert_bad_bounds_are_a_sample_without_tokens(
            lambda bounds: attentive_head(hidden, bounds, speed, head, narrow_activation=narrow_activation)
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("row", [4, 5, 73])  # first token, second token, second tile of the middle sample
    def test_a_bad_sample_leaves_its_neighbours_alone(self, dtype, bad, row):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 70, 5]), dtype)
        inputs[2].fill_(1.0)
        good = attentive_head(*inputs)
        inputs[0][row, 3] = bad
        logits, uncertainty, history, keep = result = attentive_head(*inputs)
        assert all(torch.equal(got[[0, 2]], want[[0, 2]]) for got, want in zip(result, good, strict=True))
        assert not keep[0] and not keep[2]
        if math.isnan(bad):
            assert logits[1].isnan().all() and uncertainty[1].isnan() and keep[1] and history[1].tolist() == [-1, 0]
        else:  # tanh brings an infinity back
            torch.testing.assert_close(
                logits[1].double(), reference.attentive_head(*in_double(inputs))[0][1], rtol=1e-4, atol=1e-4
            )

    def test_exit_is_strictly_below_speed_and_never_at_nan(self):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 4, 4, 4]), torch.float32)
        u = attentive_head(*inputs)[1]
        inputs[2] = torch.tensor([u[0], torch.nextafter(u[1], torch.tensor(2.0)), 0.0, math.nan])
        assert attentive_head(*inputs)[3].tolist() == [True, False, True, True]

    @pytest.mark.parametrize(("logits", "margin"), EXACT_MARGINS, ids=str)
    def test_margins_without_rounding(self, logits, margin):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([2], labels=len(logits)), torch.float32)
        inputs[3], bias = head_of_logits(inputs[3])
        bias.copy_(torch.tensor(logits))
        assert attentive_head(*inputs, criterion="margin")[1].tolist() == [margin]

    @pytest.mark.parametrize("labels", [1, 3])
    def test_stability_over_three_heads(self, labels):
        """After a score that is not a number there is none to compare with."""
        inputs = cast_attentive_head_inputs(attentive_head_inputs([2], labels=labels), torch.float32)
        inputs[3], bias = head_of_logits(inputs[3])
        inputs[2].fill_(STABLE)
        for sample in range(len(SCORES[0])):
            history = None
            for scores, changes in zip(SCORES, CHANGES, strict=True):
                bias[0] = scores[sample]
                _, change, history, keep = attentive_head(*inputs, criterion="stability", history=history)
                assert change.tolist() == pytest.approx([changes[sample]], abs=0, nan_ok=True)
                assert keep.tolist() == [not changes[sample] < STABLE]

    def test_uncertainty_of_extreme_logits(self):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([2], labels=150), torch.float32)
        inputs[3], bias = head_of_logits(inputs[3])
        torch.testing.assert_close(attentive_head(*inputs)[1], torch.ones(1))
        for first, others in ((1e4, 0.0), (3e38, -3e38), (0.0, -math.inf)):
            for place in (0, 149):  # in the first block of labels and in the last
                bias.fill_(others)
                bias[place] = first
                for options in OF_ONE_CHOICE:
                    _, uncertainty, history, _ = attentive_head(*inputs, **options)
                    assert uncertainty.tolist() == [0] and history.tolist() == [[place, 1]]
        for far, share in ((3e38, 0.0), (0.0, 1.0)):
            bias.fill_(-far)[17] = far
            got = attentive_head(*inputs, criterion="binary_entropy")[1]
            torch.testing.assert_close(got, torch.tensor([share]), rtol=0, atol=1e-6)
        bias.zero_()[149] = -math.inf
        assert attentive_head(*inputs, criterion="binary_entropy")[2].tolist() == [[-1, 0]]
        for value in (math.nan, math.inf):
            bias.zero_()[17] = value
            for options in EVERY_CRITERION:
                _, uncertainty, history, keep = attentive_head(*inputs, **options)
                assert uncertainty.isnan().all() and history.tolist() == [[-1, 0]] and keep.all()
        bias.fill_(-math.inf)
        assert all(attentive_head(*inputs, **options)[1].isnan().all() for options in EVERY_CRITERION)

    def test_non_contiguous_arguments(self):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 3]), torch.float32)
        strided = map_tensors(
            lambda x: x if x.dim() < 2 else x.transpose(-1, -2).contiguous().transpose(-1, -2), inputs
        )
        strided[2] = torch.stack([inputs[2], inputs[2]], dim=1)[:, 0]
        for got, want in zip(attentive_head(*strided), attentive_head(*inputs), strict=True):
            assert torch.equal(got, want)

    @pytest.mark.parametrize(
        ("shape", "dtype", "reason"),
        [
            ((48, 96, 2, 5), torch.float32, "narrow sizes"),
            ((44, 64, 2, 5), torch.float32, "multiples of 8"),
            ((48, 64, 16, 5), torch.float32, "1 to 8 attention heads"),
            ((48, 64, 2, 9000), torch.float32, "at most 8192 classes"),
        ],
    )
    def test_other_shapes_run_on_the_reference(self, shape, dtype, reason):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([3, 4], *shape), dtype)
        options: dict[str, Any] = {"criterion": "top_k_entropy", "parameter": 3}
        with pytest.warns(RuntimeWarning, match=reason):
            result = attentive_head(*inputs, **options)
        for got, want in zip(result, reference.attentive_head(*inputs, **options), strict=True):
            assert torch.equal(got, want)


class TestFarInMemory:
    """Rows beyond 2^31 elements and bytes."""

    __test__ = INTERPRETING

    @pytest.mark.parametrize("narrow_activation", ["tanh", "identity"])
    def test_far_in_memory(self, narrow_activation):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([9], 1024), torch.bfloat16)
        inputs[0] = torch.cat([inputs[0], inputs[0].new_zeros(200, 1024)])  # more than what is projected in any case
        distant = moved(inputs, 2**21 + 5)
        want = attentive_head(*inputs, narrow_activation=narrow_activation)
        for got, expected in zip(attentive_head(*distant, narrow_activation=narrow_activation), want, strict=True):
            assert torch.equal(got, expected)

"""The Triton kernels on the CPU: Triton's interpreter runs them against float64 (tier 2).

The interpreter has to be chosen before Triton reads a kernel, and for a whole process. So the tests below are collected
only where TRITON_INTERPRET=1 is set, and elsewhere one test runs them all in a process of its own.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastbert_kernels import reference
from support import cast_exit_head_inputs, cu_seqlens_of, exit_head_inputs, pooled_inputs

pytest.importorskip("triton.language", reason="triton is not installed")

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
LENGTHS = [1, 5, 0, 63, 64, 65, 100, 129, 300]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The smallest error worth telling from zero: a few units in the last place of a float32 logit.
FLOOR = 4e-6
EVERY_CRITERION: list[dict[str, Any]] = [
    {},
    {"criterion": "confidence"},
    {"criterion": "patience"},
    {"criterion": "top_k_entropy", "top_k": 5},
]

if INTERPRETING:
    from fastbert_kernels.triton import configs
    from fastbert_kernels.triton.compact import _place_kernel, compact
    from fastbert_kernels.triton.exit_head import exit_head
    from fastbert_kernels.triton.pooled_exit_head import pooled_exit_head


@pytest.mark.skipif(INTERPRETING, reason="this is the interpreting process")
def test_everything_below_in_an_interpreting_process():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


def in_double(inputs):
    """The same values in float64 (Speed stays float32), so that rounding of the inputs is not the kernel's error."""
    return [x.double() if i != 2 and x.is_floating_point() else x for i, x in enumerate(inputs)]


def assert_as_accurate_as_pytorch(inputs, dtype, fold_dtype=torch.float32, more_rows=0, floor=FLOOR, **options):
    """Error against float64 at most twice that of plain PyTorch in the same dtype; query and value in `fold_dtype`.

    The kernel sees `more_rows` rows of NaN after those of the samples.
    """
    cast = cast_exit_head_inputs(inputs, dtype)
    cast[5], cast[7] = cast[5].to(fold_dtype), cast[7].to(fold_dtype)
    oracle, plain = reference.exit_head(*in_double(cast), **options), reference.exit_head(*cast, **options)
    cast[0] = torch.cat([cast[0], torch.full((more_rows, cast[0].shape[1]), math.nan, dtype=dtype)])
    result = exit_head(*cast, **options)
    filled = cast[1].diff() > 0
    for name, got, want, ours in zip(("logits", "uncertainty"), result, oracle, plain, strict=False):
        assert got.dtype == torch.float32 and got.shape == want.shape
        assert got[~filled].isnan().all()
        if not filled.any():
            continue
        error, allowed = (got - want)[filled].abs().max(), 2 * (ours - want)[filled].abs().max() + floor
        assert error <= allowed, f"{name}: error {error:.2e}, plain PyTorch allows {allowed:.2e}"
    history, keep = result[2:]
    assert history.dtype == torch.int32 and history[~filled].tolist() == [[-1, 0]] * int((~filled).sum())
    two_best = oracle[0][filled].topk(2).values
    clear = two_best[:, 0] - two_best[:, 1] > 10 * FLOOR
    assert torch.equal(history[filled][clear], oracle[2][filled][clear])
    close = (oracle[1] - cast[2]).abs() < 10 * FLOOR
    assert keep.dtype == torch.bool and torch.equal(keep | close, oracle[3] | close)
    assert keep[~filled].all()


@pytest.mark.usefixtures("poisoned_memory")
class TestExitHead:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("hidden_size", "narrow", "heads", "labels"),
        [(64, 64, 1, 2), (384, 128, 2, 3), (768, 128, 3, 5), (136, 256, 8, 100), (8, 64, 6, 40)],
    )
    def test_accuracy_on_odd_lengths(self, dtype, hidden_size, narrow, heads, labels):
        assert_as_accurate_as_pytorch(exit_head_inputs(LENGTHS, hidden_size, narrow, heads, labels), dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_largest_sizes(self, dtype):
        assert_as_accurate_as_pytorch(exit_head_inputs([512], 1024, 256, 8, 1031), dtype)

    @pytest.mark.parametrize("architecture", [80, 90, 100])
    @pytest.mark.parametrize("lengths", [[3, 64, 20], [70, 130, 128]])
    @pytest.mark.parametrize(("dtype", "narrow"), [(torch.bfloat16, 64), (torch.bfloat16, 128), (torch.float32, 128)])
    def test_tiles_of_every_architecture(self, monkeypatch, architecture, lengths, dtype, narrow):
        monkeypatch.setattr(configs, "_capability", lambda device: architecture)
        assert_as_accurate_as_pytorch(exit_head_inputs(lengths, 72, narrow), dtype)

    @pytest.mark.parametrize("narrow_activation", ["tanh", "identity"])
    @pytest.mark.parametrize("mlp_activation", ["tanh", "identity"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_activations_and_half_precision_queries(self, narrow_activation, mlp_activation, dtype):
        activations = {"narrow_activation": narrow_activation, "mlp_activation": mlp_activation}
        assert_as_accurate_as_pytorch(exit_head_inputs([5, 0, 70]), dtype, fold_dtype=dtype, **activations)

    @pytest.mark.parametrize("labels", [2, 7, 150])
    @pytest.mark.parametrize(
        "options",
        [{}, {"criterion": "confidence"}, {"criterion": "patience", "patience": 3}]
        + [{"criterion": "top_k_entropy", "top_k": k} for k in (2, 5, 40, 2000)],
    )
    def test_criteria(self, options, labels):
        inputs = exit_head_inputs([3, 1, 0, 9, 2, 4], labels=labels)
        prediction = exit_head(*cast_exit_head_inputs(inputs, torch.float32), **options)[2][:, 0]
        other = (prediction + 1) % labels
        for previous, streak in ((prediction, 1), (prediction, 2), (other, 8)):
            history = torch.stack([previous, torch.full_like(previous, streak)], dim=1)
            assert_as_accurate_as_pytorch(inputs, torch.float32, history=history, **options)

    @pytest.mark.parametrize("options", [{}, *EVERY_CRITERION[1:], {"criterion": "top_k_entropy", "top_k": 1030}])
    def test_criteria_among_many_classes(self, options):
        assert_as_accurate_as_pytorch(exit_head_inputs([2, 3], labels=1031), torch.float32, **options)

    def test_equal_logits(self):
        """The first label with the largest logit is the prediction; a cut among equals counts the right number."""
        inputs = cast_exit_head_inputs(exit_head_inputs([2], labels=50), torch.float32)
        inputs[9] = torch.zeros_like(inputs[9])  # output_weight: the logits are the output bias
        bias = inputs[10] = torch.zeros(50)
        bias[20:45] = 1.5
        bias[3:6] = -0.0
        assert exit_head(*inputs)[2].tolist() == [[20, 1]]
        for top_k in (2, 25, 26, 49):
            options: dict[str, Any] = {"criterion": "top_k_entropy", "top_k": top_k}
            want = reference.exit_head(*in_double(inputs), **options)[1].float()
            torch.testing.assert_close(exit_head(*inputs, **options)[1], want, rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        ("dtype", "lengths", "projects"),
        [(torch.bfloat16, [189, 195], True), (torch.bfloat16, [190, 195], False), (torch.float32, [1, 1], False)],
    )
    def test_without_activation_16_bits_project_up_to_three_tiles(self, monkeypatch, dtype, lengths, projects):
        """Of 64 tokens, on average over the samples."""
        other = "linear_exit_head_kernel" if projects else "_exit_head_kernel"
        monkeypatch.setattr(sys.modules[exit_head.__module__], other, None)
        assert_as_accurate_as_pytorch(exit_head_inputs(lengths, 8), dtype, floor=1e-3, narrow_activation="identity")

    @pytest.mark.parametrize("lengths", [[], [1], [0], [0, 0, 7]])
    def test_small_batches(self, lengths):
        assert_as_accurate_as_pytorch(exit_head_inputs(lengths), torch.float32)

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        lengths=st.lists(st.integers(0, 140), max_size=4),
        hidden_size=st.integers(1, 12).map(lambda n: 8 * n),
        narrow=st.sampled_from([64, 128]),
        heads=st.integers(1, 8),
        labels=st.integers(2, 70),
        dtype=st.sampled_from(DTYPES),
    )
    def test_any_shape(self, lengths, hidden_size, narrow, heads, labels, dtype):
        assert_as_accurate_as_pytorch(exit_head_inputs(lengths, hidden_size, narrow, heads, labels), dtype)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("row", [4, 5, 73])  # first token, second token, second tile of the middle sample
    def test_a_bad_sample_leaves_its_neighbours_alone(self, dtype, bad, row):
        inputs = cast_exit_head_inputs(exit_head_inputs([4, 70, 5]), dtype)
        inputs[2].fill_(1.0)
        good = exit_head(*inputs)
        inputs[0][row, 3] = bad
        logits, uncertainty, history, keep = result = exit_head(*inputs)
        assert all(torch.equal(got[[0, 2]], want[[0, 2]]) for got, want in zip(result, good, strict=True))
        assert not keep[0] and not keep[2]
        if math.isnan(bad):
            assert logits[1].isnan().all() and uncertainty[1].isnan() and keep[1] and history[1].tolist() == [-1, 0]
        else:  # tanh brings an infinity back
            torch.testing.assert_close(
                logits[1].double(), reference.exit_head(*in_double(inputs))[0][1], rtol=1e-4, atol=1e-4
            )

    def test_exit_is_strictly_below_speed_and_never_at_nan(self):
        inputs = cast_exit_head_inputs(exit_head_inputs([4, 4, 4, 4]), torch.float32)
        u = exit_head(*inputs)[1]
        inputs[2] = torch.tensor([u[0], torch.nextafter(u[1], torch.tensor(2.0)), 0.0, math.nan])
        assert exit_head(*inputs)[3].tolist() == [True, False, True, True]

    def test_uncertainty_of_extreme_logits(self):
        inputs = cast_exit_head_inputs(exit_head_inputs([2], labels=150), torch.float32)
        inputs[9] = torch.zeros_like(inputs[9])  # output_weight: the logits are the output bias
        bias = inputs[10] = torch.zeros(150)
        torch.testing.assert_close(exit_head(*inputs)[1], torch.ones(1))
        for first, others in ((1e4, 0.0), (3e38, -3e38), (0.0, -math.inf)):
            for place in (0, 149):  # in the first block of labels and in the last
                bias.fill_(others)
                bias[place] = first
                for options in EVERY_CRITERION:
                    _, uncertainty, history, _ = exit_head(*inputs, **options)
                    assert uncertainty.tolist() == [0] and history.tolist() == [[place, 1]]
        for value in (math.nan, math.inf):
            bias.zero_()[17] = value
            for options in EVERY_CRITERION:
                _, uncertainty, history, keep = exit_head(*inputs, **options)
                assert uncertainty.isnan().all() and history.tolist() == [[-1, 0]] and keep.all()
        bias.fill_(-math.inf)
        assert all(exit_head(*inputs, **options)[1].isnan().all() for options in EVERY_CRITERION)

    def test_non_contiguous_arguments(self):
        inputs = cast_exit_head_inputs(exit_head_inputs([4, 3]), torch.float32)
        strided = [x if x.dim() < 2 else x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in inputs]
        strided[2] = torch.stack([inputs[2], inputs[2]], dim=1)[:, 0]
        for got, want in zip(exit_head(*strided), exit_head(*inputs), strict=True):
            assert torch.equal(got, want)

    @pytest.mark.parametrize(
        ("shape", "dtype", "reason"),
        [
            ((48, 96, 2, 5), torch.float32, "narrow sizes"),
            ((48, 64, 2, 5), torch.float64, "float64"),
            ((44, 64, 2, 5), torch.float32, "multiples of 8"),
            ((48, 64, 16, 5), torch.float32, "1 to 8 attention heads"),
            ((48, 64, 2, 9000), torch.float32, "at most 8192 classes"),
        ],
    )
    def test_other_shapes_run_on_the_reference(self, shape, dtype, reason):
        inputs = cast_exit_head_inputs(exit_head_inputs([3, 4], *shape), dtype)
        options: dict[str, Any] = {"criterion": "top_k_entropy", "top_k": 3}
        with pytest.warns(RuntimeWarning, match=reason):
            result = exit_head(*inputs, **options)
        for got, want in zip(result, reference.exit_head(*inputs, **options), strict=True):
            assert torch.equal(got, want)


@pytest.fixture
def no_projecting_kernel(monkeypatch):
    """The head fails where it would project the tokens."""
    monkeypatch.setattr(sys.modules[exit_head.__module__], "_exit_head_kernel", None)


def assert_linear_head_is_accurate(inputs, dtype, **options):
    """With so many rows in the batch that 16 bits do not project either. Their float32 vectors are rounded to 17 bits
    at the least."""
    tile = configs.exit_head(inputs[0].to(dtype), 1, inputs[5].shape[1]).block_tokens
    options |= {"narrow_activation": "identity", "more_rows": (3 * tile + 1) * len(inputs[2])}
    assert_as_accurate_as_pytorch(inputs, dtype, floor=FLOOR if dtype == torch.float32 else 5e-5, **options)


@pytest.mark.usefixtures("poisoned_memory", "no_projecting_kernel")
class TestLinearExitHead:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("hidden_size", "narrow", "heads", "labels"),
        [(64, 64, 1, 2), (384, 128, 2, 3), (768, 128, 4, 5), (136, 256, 7, 40), (8, 64, 8, 100)],
    )
    def test_accuracy_on_odd_lengths(self, dtype, hidden_size, narrow, heads, labels):
        assert_linear_head_is_accurate(exit_head_inputs(LENGTHS, hidden_size, narrow, heads, labels), dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_largest_sizes(self, dtype):
        assert_linear_head_is_accurate(exit_head_inputs([512], 1024, 256, 8, 1031), dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_half_precision_queries_and_an_mlp_without_activation(self, dtype):
        assert_linear_head_is_accurate(exit_head_inputs([5, 0, 70]), dtype, fold_dtype=dtype, mlp_activation="identity")

    @pytest.mark.parametrize("options", EVERY_CRITERION, ids=str)
    def test_criteria(self, options):
        history = torch.tensor([[0, 1], [1, 2], [2, 1]]).int()
        assert_linear_head_is_accurate(exit_head_inputs([3, 4, 2], labels=9), torch.float32, history=history, **options)

    @pytest.mark.parametrize("lengths", [[], [1], [0], [0, 0, 7]])
    def test_small_batches(self, lengths):
        assert_linear_head_is_accurate(exit_head_inputs(lengths), torch.float32)

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        lengths=st.lists(st.integers(0, 140), max_size=4),
        hidden_size=st.integers(1, 12).map(lambda n: 8 * n),
        narrow=st.sampled_from([64, 128, 256]),
        heads=st.integers(1, 8),
        labels=st.integers(2, 70),
        dtype=st.sampled_from(DTYPES),
    )
    def test_any_shape(self, lengths, hidden_size, narrow, heads, labels, dtype):
        assert_linear_head_is_accurate(exit_head_inputs(lengths, hidden_size, narrow, heads, labels), dtype)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("row", [4, 5, 73])  # first token, second token, a later tile of the middle sample
    def test_a_bad_sample_leaves_its_neighbours_alone(self, dtype, bad, row):
        inputs = cast_exit_head_inputs(exit_head_inputs([4, 70, 5]), dtype)
        inputs[0] = torch.cat([inputs[0], inputs[0].new_zeros(600, 48)])
        inputs[2].fill_(1.0)
        good = exit_head(*inputs, narrow_activation="identity")
        inputs[0][row, 3] = bad
        result = exit_head(*inputs, narrow_activation="identity")
        assert all(torch.equal(got[[0, 2]], want[[0, 2]]) for got, want in zip(result, good, strict=True))
        logits, uncertainty, history, keep = (tensor[1] for tensor in result)
        assert logits.isnan().all() and uncertainty.isnan() and keep and history.tolist() == [-1, 0]

    def test_sums_of_tokens_may_leave_the_range_of_float16(self):
        inputs = exit_head_inputs([600])
        inputs[0] = 300 + 0 * inputs[0]
        inputs[3] /= 300
        assert_linear_head_is_accurate(inputs, torch.float16)


def batch_to_compact(lengths, keep, *, width=12, dtype=torch.float32, labels=3):
    """Arguments of compact, with twice as many samples in the original batch."""
    size, original = len(lengths), 2 * len(lengths) + 1
    return [
        torch.randint(-100, 100, (sum(lengths), width)).to(dtype),
        cu_seqlens_of(lengths),
        torch.as_tensor(keep, dtype=torch.bool),
        torch.randperm(original)[:size].int(),
        torch.rand(size),
        torch.randint(-1, 99, (size, 2)).int(),
        torch.randn(size, labels),
        torch.rand(size),
        4,
        torch.full((original, labels), -7.0),
        torch.full((original,), -7.0),
        torch.full((original,), -7),
    ]


def assert_compacts_like_the_reference(inputs):
    wanted_results = [result.clone() for result in inputs[-3:]]
    want = reference.compact(*inputs[:-3], *wanted_results)
    got = compact(*inputs)
    tokens = int(want[5][1])
    assert got[0].dtype == want[0].dtype and got[0].shape == want[0].shape
    assert torch.equal(got[0][:tokens], want[0][:tokens])
    for one, other in zip(got[1:], want[1:], strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    for one, other in zip(inputs[-3:], wanted_results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("poisoned_memory")
class TestCompact:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("dtype", [*DTYPES, torch.int8, torch.float64])
    @pytest.mark.parametrize("pattern", ["all", "none", "first", "last", "alternate"])
    def test_patterns(self, dtype, pattern):
        lengths = [3, 1, 0, 7, 64, 2, 300, 5]
        keep = {
            "all": [1] * 8,
            "none": [0] * 8,
            "first": [1] + [0] * 7,
            "last": [0] * 7 + [1],
            "alternate": [1, 0] * 4,
        }[pattern]
        assert_compacts_like_the_reference(batch_to_compact(lengths, keep, dtype=dtype))

    @pytest.mark.parametrize(("lengths", "keep"), [([], []), ([5], [1]), ([5], [0]), ([0], [1])])
    def test_one_sample_and_none(self, lengths, keep):
        assert_compacts_like_the_reference(batch_to_compact(lengths, keep))

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        samples=st.lists(st.tuples(st.integers(0, 70), st.booleans()), max_size=20),
        width=st.sampled_from([1, 2, 3, 8, 33, 100]),
        labels=st.sampled_from([2, 3, 100, 1500]),
        dtype=st.sampled_from([*DTYPES, torch.int8]),
    )
    def test_any_batch(self, samples, width, labels, dtype):
        lengths, keep = [n for n, _ in samples], [k for _, k in samples]
        assert_compacts_like_the_reference(batch_to_compact(lengths, keep, width=width, dtype=dtype, labels=labels))

    def test_a_sample_longer_than_all_its_programs_copy_in_one_step(self):
        lengths = [1] * 9 + [700]
        assert_compacts_like_the_reference(batch_to_compact(lengths, [1] * 10, width=192))

    def test_more_samples_than_one_program_places(self):
        lengths, keep = torch.randint(0, 3, (2100,)).tolist(), torch.rand(2100) < 0.6
        assert_compacts_like_the_reference(batch_to_compact(lengths, keep, width=2))

    @pytest.mark.parametrize("batch", [65_535, 65_536])
    def test_places_of_the_largest_batch(self, batch):
        lengths, keep = torch.randint(0, 600, (batch,)), torch.rand(batch) < 0.5
        outputs = [torch.full((2 * batch + 2,), -9, dtype=torch.int32) for _ in range(6)]
        new_cu_seqlens, new_sample_index, new_speed, new_history, counts, destination = outputs
        size = configs.COMPACT.block_samples
        numbers = torch.arange(2 * batch).int()
        arguments = (cu_seqlens_of(lengths.tolist()), keep, numbers, numbers, numbers)
        _place_kernel[(-(-batch // size),)](*arguments, *outputs, batch, BLOCK_SAMPLES=size)
        kept = int(keep.sum())
        ends = lengths[keep].cumsum(0)
        assert counts[:2].tolist() == [kept, int(ends[-1])]
        assert new_cu_seqlens[0] == 0 and torch.equal(new_cu_seqlens[1 : kept + 1], ends.int())
        assert torch.equal(new_sample_index[:kept], keep.nonzero().flatten().int())
        assert torch.equal(new_speed[:kept], new_sample_index[:kept])
        assert torch.equal(new_history[: 2 * kept].view(-1, 2), numbers.view(-1, 2)[keep])
        assert torch.equal(destination[:batch][keep], (ends - lengths[keep]).int())
        assert (destination[:batch][~keep] == -1).all()

    def test_rows_that_start_in_the_middle_of_a_word(self):
        inputs = batch_to_compact([3, 2, 4], [1, 0, 1], dtype=torch.bfloat16)
        shifted = torch.empty(inputs[0].numel() + 1, dtype=torch.bfloat16)[1:].view_as(inputs[0])
        inputs[0] = shifted.copy_(inputs[0])
        assert_compacts_like_the_reference(inputs)

    def test_non_contiguous_rows(self):
        inputs = batch_to_compact([3, 2, 4], [1, 0, 1])
        inputs[0] = inputs[0].T.contiguous().T
        assert_compacts_like_the_reference(inputs)


@pytest.mark.usefixtures("poisoned_memory")
class TestPooledExitHead:
    __test__ = INTERPRETING

    def check(self, inputs, **options):
        hidden, cu_seqlens, speed, weights, biases = inputs
        doubled = [hidden.double(), cu_seqlens, speed, [w.double() for w in weights], [b.double() for b in biases]]
        oracle = reference.pooled_exit_head(*doubled, **options)
        plain = reference.pooled_exit_head(*inputs, **options)
        result = pooled_exit_head(*inputs, **options)
        filled = cu_seqlens.diff() > 0
        assert result[0][~filled].isnan().all() and result[1][~filled].isnan().all() and result[3][~filled].all()
        assert result[2][~filled].tolist() == [[-1, 0]] * int((~filled).sum())
        for got, want, theirs in zip(result[:2], oracle, plain, strict=False):
            error = (got - want)[filled].abs().max()
            assert error <= 2 * (theirs - want)[filled].abs().max() + FLOOR * max(1, want[filled].abs().max())
        close = (oracle[1] - speed).abs() < 10 * FLOOR
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
        self.check(pooled_inputs([512, 1], (*[1024] * layers, 1031), dtype), pooling=pooling)

    @pytest.mark.parametrize("activation", ["identity", "tanh", "relu", "gelu"])
    @pytest.mark.parametrize("options", EVERY_CRITERION, ids=str)
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

    def test_no_sample(self):
        assert pooled_exit_head(*pooled_inputs([], (16, 3), torch.float32))[0].shape == (0, 3)


class TestFarInMemory:
    """Rows beyond 2^31 elements and bytes. Memory that nothing touches is only addresses."""

    __test__ = INTERPRETING

    @pytest.mark.parametrize("narrow_activation", ["tanh", "identity"])
    def test_exit_head(self, narrow_activation):
        inputs = cast_exit_head_inputs(exit_head_inputs([9], 1024), torch.bfloat16)
        inputs[0] = torch.cat([inputs[0], inputs[0].new_zeros(200, 1024)])  # more than what is projected in any case
        distant = self.move(inputs, 2**21 + 5)
        want = exit_head(*inputs, narrow_activation=narrow_activation)
        for got, expected in zip(exit_head(*distant, narrow_activation=narrow_activation), want, strict=True):
            assert torch.equal(got, expected)

    @pytest.mark.parametrize("pooling", ["first", "mean", "max"])
    def test_pooled_exit_head(self, pooling):
        inputs = pooled_inputs([9], (1024, 3), torch.bfloat16)
        distant = self.move(inputs, 2**21 + 5)
        want = pooled_exit_head(*inputs, pooling=pooling)
        for got, expected in zip(pooled_exit_head(*distant, pooling=pooling), want, strict=True):
            assert torch.equal(got, expected)

    def test_compact(self):
        inputs = batch_to_compact([0, 3], [0, 1], width=4096, dtype=torch.int8)
        distant = self.move(inputs, 2**19)
        distant[1][0] = 0  # the sample that leaves has all rows before
        new_hidden, new_cu_seqlens, *_, counts = compact(*distant)
        assert counts.tolist() == [1, 3] and new_cu_seqlens.tolist() == [0, 3, 3]
        assert torch.equal(new_hidden[:3], inputs[0])

    @staticmethod
    def move(inputs, rows):
        """The same batch, so many rows further on."""
        hidden = torch.empty(rows + inputs[0].shape[0], inputs[0].shape[1], dtype=inputs[0].dtype)
        hidden[rows:] = inputs[0]
        return [hidden, inputs[1] + rows, *inputs[2:]]

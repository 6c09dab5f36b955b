"""exit_head: every backend against float64, odd shapes, bad values and bad arguments, and the contracts of
torch.library."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fastbert_kernels import ops, reference
from support import cast_exit_head_inputs, exit_head_inputs

BACKENDS = ["cpu", "reference"]
ODD_LENGTHS = [1, 5, 64, 100, 2, 63, 65, 129]
# The smallest error worth telling from zero, per dtype of the hidden states (a few units in the last place of a logit).
FLOOR = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def assert_as_accurate_as_pytorch(inputs, dtype, backend):
    """Error against float64 at most twice that of plain PyTorch in the same dtype."""
    cast = cast_exit_head_inputs(inputs, dtype)
    # The oracle sees the values that the kernel sees: rounding of the inputs is not the kernel's error.
    oracle = reference.exit_head(*[x.double() if i != 2 and x.is_floating_point() else x for i, x in enumerate(cast)])
    plain = reference.exit_head(*cast)
    result = ops.exit_head(*cast, backend=backend)
    for name, got, want, ours in zip(("logits", "uncertainty"), result, oracle, plain, strict=False):
        assert got.dtype == torch.float32
        error, allowed = (got - want).abs().max(), 2 * (ours - want).abs().max() + FLOOR[dtype]
        assert error <= allowed, f"{name}: error {error:.2e}, plain PyTorch allows {allowed:.2e}"
    close = (oracle[1] - cast[2]).abs() < 10 * FLOOR[dtype]
    assert torch.equal(result[2] | close, oracle[2] | close)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("hidden_size", "narrow", "heads", "labels"), [(48, 64, 2, 5), (384, 128, 2, 2), (8, 64, 1, 1000), (136, 256, 8, 3)]
)
def test_accuracy_on_odd_lengths(poisoned_memory, backend, dtype, hidden_size, narrow, heads, labels):
    inputs = exit_head_inputs(ODD_LENGTHS, hidden_size, narrow, heads, labels)
    assert_as_accurate_as_pytorch(inputs, dtype, backend)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set(isa):
    """In a process of its own, since the choice is made once; a set that the processor lacks must say so."""
    code = (
        "import sys, torch; sys.path.insert(0, 'tests'); sys.path.insert(0, 'tests/ops')\n"
        "from fastbert_kernels import _extension\n"
        "from support import exit_head_inputs; import test_exit_head as tests\n"
        f"assert _extension.module().cpu_instruction_set() == '{isa}'\n"
        "for shape in [(48, 64, 2, 5), (8, 128, 1, 1000), (136, 256, 8, 3)]:\n"
        "    tests.assert_as_accurate_as_pytorch(exit_head_inputs(tests.ODD_LENGTHS, *shape), torch.float32, 'cpu')\n"
    )
    environment = {**os.environ, "FASTBERT_CPU_ISA": isa}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if "is not one that this processor" in run.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_float64_uses_the_definition(backend):
    inputs = exit_head_inputs([3, 4])
    for got, want in zip(ops.exit_head(*inputs, backend=backend), reference.exit_head(*inputs), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_sample_and_none(poisoned_memory, backend):
    logits, uncertainty, keep = ops.exit_head(
        *cast_exit_head_inputs(exit_head_inputs([]), torch.float32), backend=backend
    )
    assert logits.shape == (0, 5) and uncertainty.shape == (0,) and keep.shape == (0,)
    assert_as_accurate_as_pytorch(exit_head_inputs([1]), torch.float32, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_sample_leaves_its_neighbours_alone(poisoned_memory, backend, bad):
    inputs = cast_exit_head_inputs(exit_head_inputs([4, 3, 5]), torch.float32)
    inputs[2].fill_(1.0)
    good = ops.exit_head(*inputs, backend=backend)
    inputs[0][5] = bad  # the middle sample
    logits, uncertainty, keep = ops.exit_head(*inputs, backend=backend)
    assert torch.equal(logits[[0, 2]], good[0][[0, 2]])
    assert torch.equal(uncertainty[[0, 2]], good[1][[0, 2]])
    assert not keep[0] and not keep[2]
    if bad != bad:  # tanh brings an infinity back; a NaN has to arrive, and must not count as certain
        assert logits[1].isnan().all() and uncertainty[1].isnan() and keep[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sample_without_tokens_is_nan_and_stays(poisoned_memory, backend):
    inputs = cast_exit_head_inputs(exit_head_inputs([4, 0, 5]), torch.float32)
    logits, uncertainty, keep = ops.exit_head(*inputs, backend=backend)
    assert logits[1].isnan().all() and uncertainty[1].isnan() and keep[1]
    assert logits[[0, 2]].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_exit_is_strictly_below_speed(backend):
    inputs = cast_exit_head_inputs(exit_head_inputs([4, 4, 4]), torch.float32)
    uncertainty = ops.exit_head(*inputs, backend=backend)[1]
    inputs[2] = torch.tensor([uncertainty[0], torch.nextafter(uncertainty[1], torch.tensor(2.0)), 0.0])
    assert ops.exit_head(*inputs, backend=backend)[2].tolist() == [True, False, True]


@pytest.mark.parametrize("backend", BACKENDS)
def test_uncertainty_of_extreme_logits(backend):
    inputs = cast_exit_head_inputs(exit_head_inputs([2, 2]), torch.float32)
    inputs[9] = torch.zeros_like(inputs[9])  # output_weight: the logits are the output bias
    inputs[10] = torch.zeros(5)
    assert torch.allclose(ops.exit_head(*inputs, backend=backend)[1], torch.ones(2))
    for extreme in (
        [0, 1e4, 0, 0, 0],
        [0, 3e38, -3e38, 0, 0],
        [-float("inf"), 0, -float("inf"), -float("inf"), -float("inf")],
    ):
        inputs[10] = torch.tensor(extreme)
        assert ops.exit_head(*inputs, backend=backend)[1].tolist() == [0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_arguments(backend):
    inputs = cast_exit_head_inputs(exit_head_inputs([4, 3]), torch.float32)
    want = ops.exit_head(*inputs, backend=backend)
    strided = [x if x.dim() < 2 else x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in inputs]
    strided[2] = torch.stack([inputs[2], inputs[2]], dim=1)[:, 0]
    assert not strided[0].is_contiguous() and not strided[2].is_contiguous()
    for got, expected in zip(ops.exit_head(*strided, backend=backend), want, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("position", "replacement", "error", "message"),
    [
        (0, lambda x: x[0], ValueError, r"hidden must be \[T, H\]"),
        (0, lambda x: x.int(), ValueError, "floating point"),
        (1, lambda x: x.long(), TypeError, "cu_seqlens must be torch.int32"),
        (1, lambda x: x[:-1], ValueError, "cu_seqlens must have shape"),
        (2, lambda x: x.double(), TypeError, "speed must be torch.float32"),
        (3, lambda x: x.double(), TypeError, "projection_weight must be torch.float32"),
        (3, lambda x: x[:, :-1], ValueError, "projection_weight must have shape"),
        (5, lambda x: x[0], ValueError, "query must be"),
        (7, lambda x: x[:-1], ValueError, "value must have shape"),
        (9, lambda x: x[:1], ValueError, "at least 2 labels"),
        (10, lambda x: x[:-1], ValueError, "output_bias must have shape"),
        (2, lambda x: x.to("meta"), ValueError, "move it there"),
    ],
)
def test_wrong_arguments_are_named(position, replacement, error, message):
    inputs = cast_exit_head_inputs(exit_head_inputs([4, 3]), torch.float32)
    inputs[position] = replacement(inputs[position])
    with pytest.raises(error, match=message):
        ops.exit_head(*inputs)


def test_opcheck():
    for dtype in (torch.float32, torch.bfloat16):
        inputs = cast_exit_head_inputs(exit_head_inputs([4, 3]), dtype)
        torch.library.opcheck(torch.ops.fastbert.exit_head.default, tuple(inputs))


def test_fullgraph_without_recompiling():
    torch._dynamo.reset()
    inputs = cast_exit_head_inputs(exit_head_inputs([4, 3]), torch.float32)
    compiled = torch.compile(lambda *x: ops.exit_head(*x)[1] * 2, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), ops.exit_head(*inputs)[1] * 2)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(*inputs)

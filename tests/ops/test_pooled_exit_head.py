"""pooled_exit_head: every pooling, activation and depth against float64, bad values and bad arguments."""

from __future__ import annotations

import pytest
import torch

from fastbert_kernels import ops, reference
from helpers.accuracy import assert_pooled_exit_head_is_accurate
from helpers.op_inputs import pooled_inputs

BACKENDS = ["cpu", "reference"]
LENGTHS = [1, 5, 64, 2, 129]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
@pytest.mark.parametrize("sizes", [(48, 2), (40, 40, 3), (136, 64, 32, 500)])
def test_accuracy(poisoned_memory, backend, dtype, pooling, sizes):
    assert_pooled_exit_head_is_accurate(pooled_inputs(LENGTHS, sizes, dtype), dtype, backend, pooling=pooling)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ["identity", "tanh", "relu", "gelu"])
def test_activations(backend, activation):
    inputs = pooled_inputs(LENGTHS, (24, 16, 4))
    pooled = torch.stack([rows.mean(0) for rows in inputs[0].split(LENGTHS)])
    hidden = reference.ACTIVATIONS[activation](pooled @ inputs[3][0].T + inputs[4][0])
    want = hidden @ inputs[3][1].T + inputs[4][1]
    single = [inputs[0].float(), *inputs[1:3], [w.float() for w in inputs[3]], [b.float() for b in inputs[4]]]
    got = ops.pooled_exit_head(*single, pooling="mean", activation=activation, backend=backend)[0]
    assert (got - want).abs().max() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
def test_bad_samples_leave_their_neighbours_alone(poisoned_memory, backend, pooling):
    inputs = pooled_inputs([4, 3, 0, 5], (16, 3), torch.float32)
    good = ops.pooled_exit_head(*inputs, pooling=pooling, backend=backend)
    inputs[0][4] = torch.nan  # first row of the second sample
    logits, uncertainty, history, keep = ops.pooled_exit_head(*inputs, pooling=pooling, backend=backend)
    for bad in (1, 2):
        assert logits[bad].isnan().all() and uncertainty[bad].isnan() and keep[bad]
        assert history[bad].tolist() == [-1, 0]
    assert torch.equal(logits[[0, 3]], good[0][[0, 3]]) and torch.equal(uncertainty[[0, 3]], good[1][[0, 3]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_sample(backend):
    logits, uncertainty, history, keep = ops.pooled_exit_head(
        *pooled_inputs([], (16, 3), torch.float32), backend=backend
    )
    assert logits.shape == (0, 3) and uncertainty.shape == keep.shape == (0,) and history.shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pooling": "last"}, ValueError, "unknown pooling 'last'; choose one of first, mean, max"),
        ({"activation": "swish"}, ValueError, "unknown activation 'swish'"),
        ({"weights": []}, ValueError, "1 to 3 layers"),
        ({"biases": []}, ValueError, "1 to 3 layers"),
        ({"weights": [torch.randn(3, 15)]}, ValueError, r"weights\[0\] must have shape \[3, 16\]"),
        ({"weights": [torch.randn(3)]}, ValueError, r"weights\[0\] must be \[out, in\]"),
        ({"biases": [torch.randn(3).double()]}, TypeError, r"biases\[0\] must be torch.float32"),
        ({"weights": [torch.randn(1, 16)], "biases": [torch.randn(1)]}, ValueError, "at least 2 labels"),
        ({"speed": torch.rand(2, 1)}, ValueError, r"speed must have shape \[B\]"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    names = ("hidden", "cu_seqlens", "speed", "weights", "biases")
    with pytest.raises(error, match=message):
        ops.pooled_exit_head(**dict(zip(names, pooled_inputs([4, 3], (16, 3), torch.float32), strict=True)) | change)


def test_opcheck_and_fullgraph():
    inputs = pooled_inputs([4, 3], (16, 8, 3), torch.float32)
    torch.library.opcheck(torch.ops.fastbert.pooled_exit_head.default, tuple(inputs), {"pooling": "mean"})
    torch._dynamo.reset()
    compiled = torch.compile(lambda *x: ops.pooled_exit_head(*x)[0] + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), ops.pooled_exit_head(*inputs)[0] + 1)

"""Autocast is for what PyTorch computes; the ops go by the dtypes of their arguments."""

from __future__ import annotations

import pytest
import torch

from fastbert_kernels import ops
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs, pooled_inputs

LENGTHS = [3, 1, 64, 17]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", ["attentive", "without activations", "pooled"])
def test_autocast_changes_nothing(backend, kind):
    if kind == "pooled":
        op, inputs, options = ops.pooled_exit_head, pooled_inputs(LENGTHS, [48, 32, 5], torch.float32), {}
    else:
        op, inputs = ops.attentive_head, cast_attentive_head_inputs(attentive_head_inputs(LENGTHS), torch.float32)
        activation = "tanh" if kind == "attentive" else "identity"
        options = {"narrow_activation": activation, "mlp_activation": activation}
    want = op(*inputs, **options, backend=backend)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = op(*inputs, **options, backend=backend)
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)

"""The PTX that Triton makes of its kernels for sm_80, executed, against the reference."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton.language", reason="triton is not installed")

from heads import Decision, check_head, history_of
from torch import Tensor
from triton_launches import Launches

from fastbert_kernels import reference
from fastbert_kernels.exit_heads import AttentiveHeadWeights, HeadInputs, PooledHeadWeights
from fastbert_kernels.triton.attentive_head import attentive_head
from fastbert_kernels.triton.compact import compact
from fastbert_kernels.triton.pooled_exit_head import pooled_exit_head
from helpers.criteria import assert_every_criterion
from helpers.op_inputs import (
    attentive_head_inputs,
    cast_attentive_head_inputs,
    compaction_inputs,
    map_tensors,
    pooled_inputs,
)
from helpers.triton_interpreter import INTERPRETING

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16
pytestmark = [
    pytest.mark.proof,  # each case compiles a kernel
    pytest.mark.skipif(INTERPRETING, reason="interpreted kernels are not compiled"),
]


@pytest.mark.parametrize(
    ("lengths", "keep", "width", "dtype"),
    [
        ([3, 0, 5, 1], [True, False, True, False], 12, FLOAT32),
        ([0, 2], [False, False], 13, torch.int8),
        ([9] * 5, [True, False, True, True, False], 1000, BFLOAT16),
    ],
)
def test_compact(lengths, keep, width, dtype):
    torch.manual_seed(0)
    inputs = compaction_inputs(lengths, keep, width=width, dtype=dtype, labels=5)
    expected = [tensor.clone() for tensor in inputs[9:]]
    wanted = reference.compact(*inputs[:9], *expected)
    results = tuple(torch.empty_like(tensor) for tensor in wanted)
    launches = Launches([x for x in inputs[:9] if isinstance(x, Tensor)], written=inputs[9:])
    compact(results, *inputs, wrap=launches.wrap)
    assert launches.findings == []
    rows = int(wanted[-1][1])
    assert torch.equal(results[0][:rows], wanted[0][:rows])
    for got, want in zip((*results[1:], *inputs[9:]), (*wanted[1:], *expected), strict=True):
        assert torch.equal(got, want) and launches.unwritten(got) == 0


def run_head(launch, inputs: HeadInputs, head, tensors: list[Tensor]) -> list[Tensor]:
    batch, labels = len(inputs.speed), head.num_labels
    results = torch.empty(batch, labels), torch.empty(batch), torch.empty(batch, 2).int(), torch.empty(batch).bool()
    launches = Launches([inputs.hidden, inputs.cu_seqlens, inputs.speed, inputs.history, *tensors])
    launch(results, inputs, head, wrap=launches.wrap)
    assert launches.findings == []
    assert [launches.unwritten(result) for result in results] == [0] * 4
    return list(results)


POOLED = [
    (FLOAT32, (72, 3), "first", "identity", ("entropy", 0)),
    (BFLOAT16, (136, 40, 5), "mean", "tanh", ("top_k_entropy", 3)),
    (FLOAT16, (72, 40, 24, 77), "max", "gelu", ("margin", 0)),
    (BFLOAT16, (72, 130), "first", "identity", ("binary_entropy", 0)),
    (FLOAT32, (40, 3), "first", "identity", ("confidence", 0)),
    (FLOAT32, (40, 3), "mean", "identity", ("patience", 2)),
    (FLOAT32, (40, 1), "first", "identity", ("stability", 0)),
]
ATTENTIVE = [
    (BFLOAT16, (72, 64, 2, 3), [5, 0, 70], "tanh", ("confidence", 0), 0),
    (FLOAT16, (136, 128, 1, 40), [33], "tanh", ("top_k_entropy", 3), 0),
    (FLOAT32, (40, 64, 2, 2), [3, 65], "tanh", ("patience", 2), 0),
    (FLOAT32, (40, 64, 3, 5), [1, 0, 34], "identity", ("entropy", 0), 0),
    (BFLOAT16, (72, 64, 2, 3), [65, 0], "identity", ("binary_entropy", 0), 700),
    (FLOAT32, (40, 64, 1, 3), [3, 18], "tanh", ("margin", 0), 0),
    (FLOAT32, (40, 64, 1, 2), [3, 18], "tanh", ("stability", 0), 0),
]


def test_the_cases_have_every_criterion():
    assert_every_criterion(case[4][0] for case in POOLED)
    assert_every_criterion(case[4][0] for case in ATTENTIVE)


@pytest.mark.parametrize(("dtype", "sizes", "pooling", "activation", "rule"), POOLED)
def test_pooled_exit_head(dtype, sizes, pooling, activation, rule):
    torch.manual_seed(0)
    hidden, cu_seqlens, speed, weights, biases = pooled_inputs([3, 0, 17, 1], sizes, dtype)
    decision = Decision(speed, *rule, history_of(rule[0], 4, sizes[-1]))
    inputs = HeadInputs(hidden, cu_seqlens, speed, decision.history, *rule)
    options = {"pooling": pooling, "activation": activation}
    head = PooledHeadWeights(weights, biases, **options)
    outputs = run_head(pooled_exit_head, inputs, head, [*weights, *biases])

    def logits_in(dtype: torch.dtype) -> Tensor:
        wide = [[tensor.to(dtype) for tensor in tensors] for tensors in (weights, biases)]
        return reference.pooled_exit_head(hidden.to(dtype), cu_seqlens, speed, *wide, **options)[0]

    check_head(outputs, logits_in, FLOAT32, decision)


@pytest.mark.parametrize(("dtype", "sizes", "lengths", "activation", "rule", "rows"), ATTENTIVE)
def test_attentive_head(dtype, sizes, lengths, activation, rule, rows):
    """`rows` more of hidden, which belong to no sample, make the head that projects no tokens the better one."""
    torch.manual_seed(0)
    inputs = cast_attentive_head_inputs(attentive_head_inputs(lengths, *sizes), dtype)
    hidden, cu_seqlens, speed, head = inputs
    decision = Decision(speed, *rule, history_of(rule[0], len(lengths), sizes[3]))
    padded = torch.cat([hidden, torch.full((rows, sizes[0]), float("nan"), dtype=dtype)])
    activations = {"narrow_activation": activation, "mlp_activation": "tanh"}
    asked = HeadInputs(padded, cu_seqlens, speed, decision.history, *rule)
    outputs = run_head(attentive_head, asked, AttentiveHeadWeights(head, **activations), [*head])

    def logits_in(dtype: torch.dtype) -> Tensor:
        weights = map_tensors(lambda tensor: tensor.to(torch.promote_types(dtype, FLOAT32)), head)
        weights = weights._replace(projection_weight=head.projection_weight.to(dtype))
        return reference.attentive_head(hidden.to(dtype), cu_seqlens, speed, weights, **activations)[0]

    check_head(outputs, logits_in, dtype, decision)

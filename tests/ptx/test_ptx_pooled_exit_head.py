"""The PTX of the CUDA pooled exit head, executed, against the reference in float64."""

from __future__ import annotations

import ctypes

import pytest
import torch
from compiled import Launcher, number_of
from heads import Decision, check_bad_bounds, check_head, history_of, place_outputs, run_head
from ptx_interpreter import GlobalMemory
from torch import Tensor

from cuda_on_cpu.cpu_library import PooledHeadWeights
from fastbert_kernels import reference
from helpers.criteria import assert_every_criterion
from helpers.op_inputs import pooled_inputs

pytestmark = pytest.mark.proof  # the first compiles the kernels
FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16


def run_pooled(
    launcher: Launcher, inputs, pooling: str, activation: str, decision: Decision, *, multiprocessors=4, seed=None
) -> list[Tensor]:
    hidden, cu_seqlens, speed, weights, biases = inputs
    memory = GlobalMemory()
    head = PooledHeadWeights(num_layers=len(weights), pooling=number_of("Pooling", pooling))
    head.activation = number_of("Activation", activation)
    head.size[0] = hidden.shape[1]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        head.weight[i], head.bias[i] = memory.place(f"weight {i}", weight), memory.place(f"bias {i}", bias)
        head.size[i + 1] = len(bias)
    (launch,) = launcher.ask(
        ctypes.c_void_p(memory.place("hidden", hidden)),
        ctypes.c_int(number_of("DType", str(hidden.dtype).removeprefix("torch."))),
        ctypes.c_int64(len(hidden)),
        ctypes.c_void_p(memory.place("cu_seqlens", cu_seqlens)),
        ctypes.c_int64(len(speed)),
        head,
        decision.place(memory),
        place_outputs(memory, len(speed), len(biases[-1])),
        multiprocessors=multiprocessors,
    )
    return run_head(launcher, memory, launch, seed)


def check_pooled(launcher: Launcher, lengths: list[int], dtype, sizes, pooling, activation, rule, **options) -> None:
    """`rule` is a criterion and its parameter."""
    torch.manual_seed(0)
    inputs = hidden, cu_seqlens, speed, weights, biases = pooled_inputs(lengths, sizes, dtype)
    decision = Decision(speed, *rule, history_of(rule[0], len(lengths), sizes[-1]))
    outputs = run_pooled(launcher, inputs, pooling, activation, decision, **options)

    def logits_in(dtype: torch.dtype) -> Tensor:
        wide = [[tensor.to(dtype) for tensor in tensors] for tensors in (weights, biases)]
        head = {"pooling": pooling, "activation": activation}
        return reference.pooled_exit_head(hidden.to(dtype), cu_seqlens, speed, *wide, **head)[0]

    check_head(outputs, logits_in, FLOAT32, decision)


CASES = [
    (FLOAT32, (72, 3), "first", "identity", ("entropy", 0), 4, 1),
    (BFLOAT16, (136, 40, 5), "mean", "tanh", ("margin", 0), 4, None),
    (FLOAT16, (72, 40, 24, 77), "max", "gelu", ("top_k_entropy", 3), 2, None),
    (FLOAT32, (72, 40, 24, 2), "max", "relu", ("confidence", 0), 1, None),
    (BFLOAT16, (72, 37), "mean", "identity", ("binary_entropy", 0), 4, None),
    (FLOAT32, (72, 1), "first", "identity", ("stability", 0), 4, None),
    (BFLOAT16, (264, 40, 33), "first", "tanh", ("patience", 2), 4, None),
]


def test_the_cases_have_every_criterion():
    assert_every_criterion(case[4][0] for case in CASES)


@pytest.mark.parametrize(("dtype", "sizes", "pooling", "activation", "rule", "multiprocessors", "seed"), CASES)
def test_against_the_reference(pooled_exit_head, dtype, sizes, pooling, activation, rule, multiprocessors, seed):
    """With fewer multiprocessors more samples share a block: 1, 2 or 4 of these."""
    options = {"multiprocessors": multiprocessors, "seed": seed}
    check_pooled(pooled_exit_head, [3, 0, 17, 1], dtype, sizes, pooling, activation, rule, **options)


def test_groups_of_eight_samples(pooled_exit_head):
    rule = ("top_k_entropy", 5)
    options = {"multiprocessors": 1}
    check_pooled(pooled_exit_head, [1, 2, 0, 1, 3, 1, 1, 2, 1], BFLOAT16, (40, 24, 3), "mean", "tanh", rule, **options)


@pytest.mark.parametrize("pooling", ["first", "max"])
def test_bad_bounds(pooled_exit_head, pooling):
    hidden, _, speed, weights, biases = pooled_inputs([3, 5, 4, 2], (40, 3), FLOAT32)
    check_bad_bounds(
        lambda bounds: run_pooled(
            pooled_exit_head, [hidden, bounds, speed, weights, biases], pooling, "tanh", Decision(speed)
        )
    )

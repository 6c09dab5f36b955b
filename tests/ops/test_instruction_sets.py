"""The compiled CPU kernels in every instruction set that this processor has: all other tests run the best of them."""

from __future__ import annotations

import pytest

import fastbert_kernels
from helpers import programs

# Run in a process of its own, since the choice is made once.
CHECKS = """
import torch
from fastbert_kernels import _extension
from helpers.accuracy import (
    assert_encoder_layer_is_accurate, assert_attentive_head_is_accurate, assert_pooled_exit_head_is_accurate
)
from helpers.op_inputs import attentive_head_inputs, layer_weights, pooled_inputs
assert _extension.module().cpu_instruction_set() == "ISA"
torch.manual_seed(20)
for shape in [(48, 64, 2, 5), (8, 128, 1, 1000), (136, 256, 8, 3), (13, 64, 2, 2)]:
    inputs = attentive_head_inputs([1, 5, 64, 129] * 4, *shape)
    for narrow in ("tanh", "identity"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert_attentive_head_is_accurate(inputs, dtype, "cpu", narrow_activation=narrow)
for dtype in (torch.float32, torch.bfloat16):
    assert_pooled_exit_head_is_accurate(pooled_inputs([1, 5, 64], (24, 16, 3), dtype), dtype, "cpu", pooling="mean")
for shape in [(48, 100, 3), (384, 640, 12), (13, 9, 1)]:
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        for layer_norm in ("standard", "unbiased"):
            weights = layer_weights(*shape, layer_norm=layer_norm)
            assert_encoder_layer_is_accurate(weights, [1, 5, 64, 129, 7, 300], dtype)
"""


@pytest.mark.proof
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "avx512_bf16", "amx"])
def test_every_instruction_set(isa):
    state = fastbert_kernels.info()["cpu_instruction_sets"].get(isa, "this processor is of another architecture")
    # One that is there but found faulty by itself is no reason to skip.
    if state.startswith(("this processor", "the system")):
        pytest.skip(state)
    programs.succeed(CHECKS.replace("ISA", isa), FASTBERT_CPU_ISA=isa)

"""A variant of a Triton kernel that is kept is launched with what Triton's own launch would give it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton.language", reason="triton is not installed")

from triton.runtime import driver

from fastbert_kernels.triton import elementwise
from fastbert_kernels.triton.kept import KeptKernel
from helpers.triton_interpreter import INTERPRETING
from launches import triton_driver

pytestmark = [
    pytest.mark.skipif(INTERPRETING, reason="the interpreter has no variants"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu launches for real"),
]


@pytest.fixture
def launched(monkeypatch):
    """What Triton's launcher is given, launch by launch."""
    given = []

    class Launcher:
        def __init__(self, source, metadata): ...

        def __call__(self, *arguments):
            *grid, _stream, _function, _metadata, _lazy, _enter, _exit = arguments[:9]
            kept = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments[9:]]
            given.append((grid, kept))

    stand_in = triton_driver.StandIn()
    stand_in.launcher_cls = Launcher
    monkeypatch.setattr(driver, "_active", stand_in)
    return given


def test_arguments_of_a_kept_variant(launched, monkeypatch):
    kernels = [KeptKernel(kernel._kernel) for kernel in (elementwise._add_layer_norm, elementwise._bias_activation)]
    monkeypatch.setattr(elementwise, "_add_layer_norm", kernels[0])
    monkeypatch.setattr(elementwise, "_bias_activation", kernels[1])
    rows, residual = torch.randn(2, 5, 64).bfloat16()
    bias, weight = torch.randn(2, 64).bfloat16()
    for _ in range(2):
        elementwise.add_layer_norm_(rows, bias, residual, weight, bias, 1e-12)
    for number in (5, 5, 3):
        elementwise.bias_activation_(rows[:number], bias, "gelu")
    assert len(launched) == 5 and launched[0] == launched[1] and launched[2] == launched[3]
    assert [len(kernel._variants) for kernel in kernels] == [1, 1]
    assert launched[4][1][2] == 3  # the number of rows is none of what a variant is for

    odd = torch.randn(5 * 64 + 1).bfloat16()[1:].view(5, 64)  # at an address that 16 does not divide
    elementwise.bias_activation_(odd, bias, "gelu")
    elementwise.bias_activation_(rows, bias, "relu")
    elementwise.bias_activation_(rows.float(), bias, "gelu")
    assert len(kernels[1]._variants) == 3  # of the odd one none is kept

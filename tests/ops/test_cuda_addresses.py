"""What the CUDA launchers are given by the ops, seen by a module without kernels; no GPU is needed for that."""

from __future__ import annotations

import types

import pytest
import torch

from fastbert_kernels import _extension, backends, ops
from fastbert_kernels.backends import Backend
from fastbert_kernels.ops import library
from helpers.op_inputs import cast_exit_head_inputs, exit_head_inputs, pooled_inputs


@pytest.fixture
def given(monkeypatch):
    """The address of `hidden` and those of the weights, as they come in; CPU tensors take the backend "cuda"."""
    addresses = []

    def take(*arguments):
        return arguments

    def launch(hidden, dtype, cu_seqlens, *rest):
        weights = next(value for value in rest if isinstance(value, tuple))
        addresses.extend([hidden, *(weights[0] if isinstance(weights[0], list) else weights[:8])])

    module = types.SimpleNamespace(
        ExitHeadWeights=take,
        ExitHeadShape=lambda *sizes: list(sizes),
        PooledHeadWeights=take,
        Decision=lambda *fields: None,
        DecisionOutputs=lambda *fields: None,
        exit_head_cuda_unsupported=lambda *arguments: None,
        pooled_exit_head_cuda_unsupported=lambda *arguments: None,
        exit_head_cuda=launch,
        pooled_exit_head_cuda=launch,
    )
    monkeypatch.setattr(_extension, "module", lambda: module)
    monkeypatch.setattr(library, "current_stream", lambda device: 0)
    monkeypatch.setitem(backends.BACKENDS, "cuda", Backend("cuda", "cpu", lambda: None))
    return addresses


def somewhere(tensor):
    """The same values in the middle of a larger tensor, one element behind an address that 16 divides."""
    larger = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    view = larger[1:].view(tensor.shape)
    assert view.copy_(tensor).data_ptr() % 16 != 0
    return view


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_attentive_head_reads_from_aligned_addresses(given, dtype):
    hidden, cu_seqlens, speed, *weights = cast_exit_head_inputs(exit_head_inputs([3, 4]), dtype)
    ops.exit_head(hidden, cu_seqlens, speed, *weights, backend="cuda")
    assert given == [tensor.data_ptr() for tensor in (hidden, *weights)]  # what lies well is not copied
    given.clear()
    ops.exit_head(somewhere(hidden), cu_seqlens, speed, *map(somewhere, weights), backend="cuda")
    assert len(given) == 9 and all(address % 16 == 0 for address in given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pooled_head_reads_from_aligned_addresses(given, dtype):
    hidden, cu_seqlens, speed, weights, biases = pooled_inputs([3, 4], (16, 8, 2), dtype)
    ops.pooled_exit_head(hidden, cu_seqlens, speed, weights, biases, backend="cuda")
    assert given == [tensor.data_ptr() for tensor in (hidden, *weights)]
    given.clear()
    weights, biases = list(map(somewhere, weights)), list(map(somewhere, biases))
    ops.pooled_exit_head(somewhere(hidden), cu_seqlens, speed, weights, biases, backend="cuda")
    assert len(given) == 3 and all(address % 16 == 0 for address in given)

"""What the CUDA launchers are given by the ops, seen by a module without kernels; no GPU is needed for that."""

from __future__ import annotations

import types

import pytest
import torch

from fastbert_kernels import _extension, backends, ops
from fastbert_kernels.backends import Backend
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs, pooled_inputs


@pytest.fixture
def given(monkeypatch):
    """The addresses of `hidden` and the weights, as they come in; CPU tensors take the backend "cuda"."""
    addresses = []

    class Head:
        def __init__(self, weights, *rest):
            self.weights = weights

        def decide(self, hidden, *rest, **options):
            addresses.extend(tensor.data_ptr() for tensor in (hidden, *self.weights))

    module = types.SimpleNamespace(CudaAttentiveHead=Head, CudaPooledHead=Head)
    monkeypatch.setattr(_extension, "module", lambda: module)
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
    hidden, cu_seqlens, speed, weights = cast_attentive_head_inputs(attentive_head_inputs([3, 4]), dtype)
    ops.attentive_head(hidden, cu_seqlens, speed, weights, backend="cuda")
    assert given == [tensor.data_ptr() for tensor in (hidden, *weights)]  # what lies well is not copied
    given.clear()
    ops.attentive_head(somewhere(hidden), cu_seqlens, speed, list(map(somewhere, weights)), backend="cuda")
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

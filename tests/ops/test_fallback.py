"""Shapes outside a kernel's go to the reference, with one warning for each reason; no GPU is needed to decide that.

The sentences of the CUDA kernels themselves are tested in tests/cuda_on_cpu.
"""

from __future__ import annotations

import re
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fastbert_kernels import _extension, backends, ops, reference
from fastbert_kernels.backends import Backend
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs, compaction_inputs, pooled_inputs

OPTIONS = {"criterion": "patience", "parameter": 2, "history": torch.tensor([[0, 1], [1, 1]], dtype=torch.int32)}
ATTENTIVE = {"narrow_activation": "identity", "mlp_activation": "identity", **OPTIONS}
POOLED = {"pooling": "mean", "activation": "gelu", **OPTIONS}


@pytest.fixture(autouse=True)
def gpu_backends_on_the_cpu(monkeypatch):
    """The backends of GPUs take CPU tensors, the CUDA module is one without launchers, and no reason is known yet."""
    for name in ("cuda", "triton"):
        monkeypatch.setitem(backends.BACKENDS, name, Backend(name, "cpu", lambda: None))

    class Head:
        def __init__(self, weights, *rest):
            self.weights = weights

        def decide(self, hidden, *rest, **options):
            raise backends.Unsupported(f"not {hidden.dtype} with {len(self.weights)} weights")

    module = types.SimpleNamespace(CudaAttentiveHead=Head, CudaPooledHead=Head)
    monkeypatch.setattr(_extension, "module", lambda: module)
    for remembered in (backends.warn_once, backends._first_available):
        remembered.cache_clear()
    yield
    for remembered in (backends.warn_once, backends._first_available):
        remembered.cache_clear()


def assert_runs_on_the_reference(op, inputs, options, backend, reason):
    """Twice, with one warning."""
    want = getattr(reference, op)(*inputs, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [getattr(ops, op)(*inputs, **options, backend=backend) for _ in range(2)]
    messages = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert messages == [f"fastbert_kernels.{op} runs in plain PyTorch: {reason}"]
    for result in results:
        for got, wanted in zip(result, want, strict=True):
            assert torch.equal(got, wanted)
    refused = f"fastbert_kernels.{op} runs in plain PyTorch, which waits for the device: {reason}"
    with backends.reference_refused(), pytest.raises(RuntimeError, match=re.escape(refused)):
        getattr(ops, op)(*inputs, **options, backend=backend)


def test_attentive_head_in_cuda():
    for dtype in (torch.float32, torch.bfloat16):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([3, 4], 44, 96, 9, 5), dtype)
        reason = f"not {dtype} with 8 weights"
        assert_runs_on_the_reference("attentive_head", inputs, ATTENTIVE, "cuda", reason)


def test_pooled_head_in_cuda():
    for sizes in ((44, 2), (44, 12, 3)):
        inputs = pooled_inputs([3, 4], sizes, torch.float16)
        reason = f"not torch.float16 with {len(sizes) - 1} weights"
        assert_runs_on_the_reference("pooled_exit_head", inputs, POOLED, "cuda", reason)


def test_attentive_head_in_triton():
    pytest.importorskip("triton.language", reason="triton is not installed")
    for narrow in (32, 96):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([3, 4], 48, narrow), torch.float32)
        reason = f"the narrow sizes of the Triton kernel are (64, 128, 256), not {narrow}"
        assert_runs_on_the_reference("attentive_head", inputs, ATTENTIVE, "triton", reason)


def test_pooled_head_in_triton():
    pytest.importorskip("triton.language", reason="triton is not installed")
    inputs = pooled_inputs([3, 4], (16, 9000), torch.float32)
    options = {**POOLED, "criterion": "top_k_entropy", "parameter": 3}
    reason = "the Triton kernel finds the most likely of at most 8192 classes, not of 9000"
    assert_runs_on_the_reference("pooled_exit_head", inputs, options, "triton", reason)


def test_the_reference_itself_can_be_refused():
    """By name, for float64, and in this thread alone."""
    head = attentive_head_inputs([3, 4])
    pooled = pooled_inputs([3, 4], (16, 2), torch.float32)
    rows = compaction_inputs([3, 4], [True, False])
    calls = (
        ("attentive_head.*float64, backend 'auto'", lambda: ops.attentive_head(*head)),
        ("pooled_exit_head.*float32, backend 'reference'", lambda: ops.pooled_exit_head(*pooled, backend="reference")),
        ("compact.*backend 'reference'", lambda: ops.compact(*rows, backend="reference")),
    )
    for message, call in calls:
        with backends.reference_refused():
            with pytest.raises(RuntimeError, match=message):
                call()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(call).result()
        call()

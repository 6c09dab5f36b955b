"""Why a backend is not available, in words with the remedy."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from fastbert_kernels import _extension, backends

TOO_OLD = "the driver runs CUDA up to 12.4, and the kernels were compiled with CUDA 13.0"


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of compute capability 9.0 as far as PyTorch is concerned, and a module with CUDA kernels."""
    module = SimpleNamespace(cuda_version="13.0", cuda_kernels_unavailable=lambda device: "")
    monkeypatch.setattr(_extension, "load", lambda: (module, ""))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    return module


def why_not():
    return backends._cuda_unavailable.__wrapped__()  # as asked for the first time


def test_a_module_whose_kernels_load_is_available(gpu):
    assert why_not() is None


def test_the_driver_and_the_kernels_are_asked(gpu):
    gpu.cuda_kernels_unavailable = lambda device: f"device {device}: {TOO_OLD}"
    assert why_not() == f"device 1: {TOO_OLD}"


def test_an_old_gpu_is_told_before_the_kernels_are_asked(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    gpu.cuda_kernels_unavailable = None
    assert why_not() == "compute capability 7.5 is older than 8.0, the oldest that the kernels are built for"


def test_a_module_without_cuda_kernels_says_how_to_get_them(gpu):
    gpu.cuda_version = None
    assert "FASTBERT_CUDA=ON pip install ." in why_not()


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_without_a_driver_the_compiled_kernels_say_so():
    module, reason = _extension.load()
    if module is None or module.cuda_version is None:
        pytest.skip(reason if module is None else "the compiled module has no CUDA kernels")
    assert "driver" in module.cuda_kernels_unavailable(0)


def why_no_triton():
    return backends._triton_unavailable.__wrapped__()


def test_triton_needs_a_gpu_of_today(gpu, monkeypatch):
    pytest.importorskip("triton.language")
    assert why_no_triton() is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "compute capability 7.5 is older than 8.0" in why_no_triton()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_no_triton() == "torch sees no CUDA device"


def test_a_triton_that_is_not_there_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton.language", None)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "pip install fastbert-kernels[triton]" in why_no_triton()


def test_a_backend_that_was_named_never_falls_back(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "cpu", backends.Backend("cpu", "cpu", lambda: "not compiled"))
    with pytest.raises(RuntimeError, match="backend 'cpu' cannot be used: not compiled"):
        backends.resolve("cpu", torch.device("cpu"))
    backends._first_available.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="falls back to the reference backend on cpu: cpu: not compiled"):
            assert backends.resolve("auto", torch.device("cpu")) == "reference"
    finally:
        backends._first_available.cache_clear()

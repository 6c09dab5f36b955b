"""The one registry of backends: what each needs, whether it is there, and which one a call gets."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch

from fastbert_kernels import _extension


@dataclass(frozen=True)
class Backend:
    """A way to run the ops. `unavailable()` returns None, or the reason with the remedy."""

    name: str
    device_type: str | None  # None: any device
    unavailable: Callable[[], str | None]


def _cpu_unavailable() -> str | None:
    module, detail = _extension.load()
    return detail if module is None else None


@cache
def _cuda_unavailable() -> str | None:
    module, detail = _extension.load()
    if module is None:
        return detail
    if module.cuda_version is None:
        return "the compiled module has no CUDA kernels: reinstall where nvcc is found (FASTBERT_CUDA=ON pip install .)"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        version = ".".join(map(str, capability))
        return f"compute capability {version} is older than 8.0, the oldest that the kernels are built for"
    return module.cuda_kernels_unavailable(torch.cuda.current_device()) or None


@cache
def _triton_unavailable() -> str | None:
    try:
        import triton.language  # noqa: F401  (a plain `import triton` also finds any folder of that name)
    except ImportError as error:
        return f"Triton does not import ({error}): pip install fastbert-kernels[triton]"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        return f"compute capability {'.'.join(map(str, capability))} is older than 8.0, the oldest that is tested"
    return None


# In order of preference; "reference" is the specification in plain PyTorch and runs everywhere.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("cuda", "cuda", _cuda_unavailable),
        Backend("triton", "cuda", _triton_unavailable),
        Backend("cpu", "cpu", _cpu_unavailable),
        Backend("reference", None, lambda: None),
    )
}


def resolve(name: str, device: torch.device) -> str:
    """The backend that runs on `device`: the named one, or for "auto" the first of BACKENDS that can.

    Raises ValueError for an unknown name or a backend of another device, RuntimeError when a named backend is not
    there. Only "auto" falls back, and says so once.
    """
    if name == "auto":
        return _first_available(device.type)
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose one of auto, {', '.join(BACKENDS)}")
    backend = BACKENDS[name]
    if backend.device_type not in (None, device.type):
        raise ValueError(f"backend {name!r} runs on {backend.device_type} tensors, these are on {device.type}")
    if reason := backend.unavailable():
        raise RuntimeError(f"backend {name!r} cannot be used: {reason}")
    return name


@cache
def _first_available(device_type: str) -> str:
    reasons: list[str] = []
    for backend in BACKENDS.values():
        if backend.device_type not in (None, device_type):
            continue
        reason = backend.unavailable()
        if reason is None:
            if reasons:
                warnings.warn(
                    f"fastbert_kernels falls back to the {backend.name} backend on {device_type}: {'; '.join(reasons)}",
                    RuntimeWarning,
                    stacklevel=4,
                )
            return backend.name
        reasons.append(f"{backend.name}: {reason}")
    raise AssertionError("the reference backend is always available")


class Unsupported(Exception):
    """What a kernel raises, with the reason, for arguments that it does not cover; the reference takes them."""


def warn_about_fallback(op: str, reason: str) -> None:
    """Say once for each reason that a compiled kernel leaves a shape to the reference."""
    refuse_reference(op, reason)
    warn_once(op, reason)


@cache
def warn_once(op: str, reason: str) -> None:
    warnings.warn(f"fastbert_kernels.{op} runs in plain PyTorch: {reason}", RuntimeWarning, stacklevel=5)


class _Thread(threading.local):
    reference_refused = False


_thread = _Thread()


@contextlib.contextmanager
def reference_refused() -> Iterator[None]:
    """Inside, in this thread, an op raises RuntimeError where it would run in plain PyTorch.

    The reference asks the device for numbers. A CUDA graph capture that meets such a question fails, and torch is not
    itself again after that: its allocator takes the capture for under way and refuses `torch.cuda.empty_cache()`.
    """
    _thread.reference_refused = True
    try:
        yield
    finally:
        _thread.reference_refused = False


def refuse_reference(op: str, reason: str) -> None:
    """Raise `RuntimeError` where plain PyTorch, which an op runs in for this reason, is refused."""
    if _thread.reference_refused:
        raise RuntimeError(f"fastbert_kernels.{op} runs in plain PyTorch, which waits for the device: {reason}")

"""Peak memory of a call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
WHAT_IS_MEASURED = (
    "peak memory during a run above what was held before it (weights and workspaces kept between runs not included): "
    "on a CPU the process's peak resident size after unused memory was given back (VmHWM, reset through "
    "/proc/self/clear_refs), on a GPU what PyTorch's allocator handed out"
)


def with_peak(call: Callable[[], T], device: torch.device) -> tuple[T, int | None]:
    """Return what `call` returns, and the bytes by which it raised the peak; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        return result, torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, AttributeError):  # not Linux, or not with glibc
        return call(), None
    result = call()
    return result, max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    """Bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")

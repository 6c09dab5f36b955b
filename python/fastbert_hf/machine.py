"""What a result was measured on: processor, accelerator and versions, for result files."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = ("fastbert-kernels", "torch", "transformers", "triton")


def describe_machine() -> dict[str, Any]:
    """Plain values: date (UTC), processor, its cores and vector extensions, threads of torch, CUDA device, versions."""
    import torch  # here, since the rest of this module does not need it

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "extensions": [
            name for name in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if name in _flags()
        ],
        "threads": torch.get_num_threads(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def name_machine(machine: dict[str, Any]) -> str:
    """Return what decides the speed of a machine that `describe_machine` describes: the GPU, else the processor."""
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    return machine["cuda_device"] or f"{machine['processor']}, {threads}"


def computes_in_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself (AVX512-BF16 or AMX), so that bfloat16 is faster."""
    return bool({"avx512_bf16", "amx_bf16"} & _flags())


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _flags() -> set[str]:
    return set(_cpuinfo("flags").split())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

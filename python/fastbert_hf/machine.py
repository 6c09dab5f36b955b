"""What a result was measured on: processor, accelerator and versions, for result files."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("fastbert-kernels", "torch", "transformers", "triton")


def describe_machine() -> dict[str, Any]:
    """Plain values: date (UTC), processor, its cores and vector extensions, threads of torch, CUDA device with what
    decides its speed, versions."""
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
        "cuda": _describe_cuda_device(torch.cuda.current_device()) if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def name_machine(machine: dict[str, Any]) -> str:
    """Return what decides the speed of a machine that `describe_machine` describes: the GPU, else the processor."""
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    return machine["cuda_device"] or f"{machine['processor']}, {threads}"


def computes_in_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 matrices itself (AVX512-BF16, AMX): bfloat16 is faster then."""
    return bool({"avx512_bf16", "amx_bf16"} & _flags())


def _describe_cuda_device(device: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device)
    return {
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda_of_torch": torch.version.cuda,
        **_ask_driver(str(getattr(properties, "uuid", device))),
    }


def _ask_driver(device: str) -> dict[str, str | int]:
    """Return the driver's version and the clocks in MHz, now and at most, of a device by its number or UUID; nothing
    where nvidia-smi does not say."""
    names = {
        "driver": "driver_version",
        "clock_mhz": "clocks.sm",
        "highest_clock_mhz": "clocks.max.sm",
        "memory_clock_mhz": "clocks.mem",
    }
    device = device if device.isdecimal() else f"GPU-{device.removeprefix('GPU-')}"
    command = ["nvidia-smi", f"--id={device}", f"--query-gpu={','.join(names.values())}"]
    try:
        done = subprocess.run(
            [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [int(value) if value.isdecimal() else value for value in done.stdout.strip().split(", ")]
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else {}


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

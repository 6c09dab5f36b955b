"""Whole calls of a patched BERT-base with few short texts: launches, waits, and what the answers are."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.profiler import ProfilerActivity

import fastbert_kernels
from comparing import workload
from fastbert_kernels.hosts import fastbert_hf as host
from gpu_items.device import Device

BATCHES = {"b1": (1, 17), "b8": (8, 45)}
_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
_COPIES = ("cudaMemcpyAsync", "cudaMemsetAsync")
_WAITS = ("cudaEventSynchronize", "cudaStreamSynchronize", "cudaDeviceSynchronize")


def at_once(device: Device) -> dict[str, Any]:
    """Compare calls that one graph answers from their ids on with calls that are packed in front of it."""
    model = workload.make_random_model("MiniLM-L6" if device.is_small else "BERT-base").to(device.name)
    shapes = [(samples * length, samples, length) for samples, length in BATCHES.values()]
    patched = fastbert_kernels.patch(copy.deepcopy(model), dtype=torch.bfloat16, warm_up=shapes)
    figures: dict[str, Any] = {}
    with torch.inference_mode():
        for name, (samples, length) in BATCHES.items():
            ids = torch.randint(5, 1000, (samples, length), device=device.name)
            mask = torch.ones_like(ids)
            mask[-1, length // 2 :] = 0

            def call(ids: torch.Tensor = ids, mask: torch.Tensor = mask) -> Any:
                return patched(ids, mask, speed=0.3)

            got, counts, times = call(), _counts(call, device), device.time(call, 20)
            own, host.answer_at_once = host.answer_at_once, lambda *arguments: None
            try:
                want, packed = call(), device.time(call, 20)
            finally:
                host.answer_at_once = own
            same = got.exit_layer == want.exit_layer
            figures[name] = {
                "same_exits": float(same.float().mean()),
                "error": float((got.logits - want.logits)[same].abs().max()) if same.any() else 0.0,
                **counts,
                "at_once": times,
                "packed": packed,
            }
    right = all(one["error"] < 0.6 and one["same_exits"] > 0.8 for one in figures.values())
    few = not device.is_gpu or all(one["launches"] <= 6 and one["waits"] <= 1 for one in figures.values())
    return {"ok": right and few, **figures}


def _counts(call: Any, device: Device) -> dict[str, int]:
    """Return how often a call asks the CUDA runtime for a launch or copy, and to wait."""
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * device.is_gpu]
    with torch.profiler.profile(activities=activities) as profile:
        call()
    counts = {row.key: row.count for row in profile.key_averages()}

    def total(names: tuple[str, ...]) -> int:
        return sum(counts.get(name, 0) for name in names)

    return {"launches": total(_LAUNCHES) + total(_COPIES), "waits": total(_WAITS)}

"""A patched BERT-base: time of a call, and where it goes."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity

import fastbert_kernels
from comparing import workload
from gpu_items.device import Device

MOST_KERNELS = 14  # that are listed


def patched(batch: int, kind: str, device: Device) -> dict[str, Any]:
    """Time one batch at full depth and at mean depth 4 of 12, and profile the latter.

    Args:
        batch: samples.
        kind: of lengths, see `comparing.workload.random_samples`.
        device: where.
    """
    batch = min(batch, 2) if device.is_small else batch
    model = workload.make_random_model("MiniLM-L6" if device.is_small else "BERT-base").to(device.name)
    samples = workload.random_samples(batch, kind, model, seed=1)
    answers = workload.reference_answers(model, samples, batch)
    exits = workload.planned_exits(answers.uncertainty, 4.0)
    (request,) = samples.requests(batch, torch.device(device.name), exits.speed)
    fastbert_kernels.patch(model, dtype=torch.bfloat16, warm_up="on demand")
    with torch.inference_mode():

        def adaptive() -> Any:
            return model(request.input_ids, request.attention_mask, speed=request.speed)

        figures = {
            "ok": True,
            "tokens": int(samples.lengths.sum()),
            "mean_exit_layer": float(adaptive().exit_layer.float().mean()),
            "adaptive": device.time(adaptive, 20),
            "full_depth": device.time(lambda: model(request.input_ids, request.attention_mask), 20),
        }
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * device.is_gpu]
        with torch.profiler.profile(activities=activities) as profile:
            adaptive()
            device.wait()
    rows = profile.key_averages()
    busy = {row.key: getattr(row, "self_device_time_total", 0) for row in rows}
    kernels = sorted((row for row in rows if busy[row.key]), key=lambda row: -busy[row.key])[:MOST_KERNELS]
    listed = [[row.key[:60], row.count, round(busy[row.key])] for row in kernels]
    return {**figures, "device_us": round(sum(busy.values())), "kernels": listed}

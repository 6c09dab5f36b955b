"""Recorded loops against the plain loop: answers, recording time, and time of a run."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from fastbert_kernels.engine.graphs import GraphedLoop
from fastbert_kernels.engine.rule import ENTROPY_RULE
from gpu_items.device import Device
from helpers.encoders import random_batch, random_loop
from helpers.graphs import EagerRecorder

BATCHES = {"b1": [17], "b8": [9, 30, 4, 64, 20, 33, 8, 50], "b32": [45] * 32}


def loop(device: Device, *, chained: bool) -> dict[str, Any]:
    """Run batches stage by stage, or where they are small as one graph of all layers."""
    torch.manual_seed(0)
    depth, width = (3, 64) if device.is_small else (12, 768)
    plain = random_loop(depth=depth, hidden_size=width, dtype=torch.bfloat16, device=device.name, backend="auto")
    options: dict[str, Any] = {"on_demand": True, **({} if chained else {"whole_depth_samples": 0})}
    if not device.is_gpu:
        options["recorder"] = EagerRecorder()
    graphed = GraphedLoop(plain.layers, plain.heads, "auto", **options)
    figures: dict[str, Any] = {}
    for name, lengths in BATCHES.items():
        batch = random_batch(lengths, 0.5, hidden_size=width, dtype=torch.bfloat16, device=device.name)
        begin = time.perf_counter()
        got = graphed.run(copy.copy(batch), ENTROPY_RULE)
        device.wait()
        record = time.perf_counter() - begin
        want = plain.run(copy.copy(batch), ENTROPY_RULE)
        same = got.exit_layer == want.exit_layer
        figures[name] = {
            "same_exits": float(same.float().mean()),
            "error": float((got.logits - want.logits)[same].abs().max()),
            "record_seconds": round(record, 2),
            "graphed": device.time(lambda batch=batch: graphed.run(copy.copy(batch), ENTROPY_RULE), 20),
            "plain": device.time(lambda batch=batch: plain.run(copy.copy(batch), ENTROPY_RULE), 10),
        }
    chains = [place.chain is not None for place in graphed.recordings.places.values()]
    right = all(one["error"] < 0.6 and one["same_exits"] > 0.8 for one in figures.values())
    return {"ok": right and any(chains) == chained, "chains": chains, **figures}

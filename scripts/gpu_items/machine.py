"""What the machine can do, against which everything else is judged."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear

from fastbert_hf.machine import describe_machine
from gpu_items.device import Device


def rates(device: Device) -> dict[str, Any]:
    """Measure a product of an encoder's shape in bfloat16, a copy far larger than the caches, and an empty launch."""
    rows, size = (64, 1 << 20) if device.is_small else (8192, 1 << 30)
    a, b = (torch.randn(count, 768, device=device.name, dtype=torch.bfloat16) for count in (rows, 3072))
    source = torch.randint(-100, 100, (size,), dtype=torch.int8, device=device.name)
    target = torch.empty_like(source)
    product = device.time(lambda: linear(a, b))
    copy = device.time(lambda: target.copy_(source), 10)
    return {
        "ok": True,
        "machine": describe_machine(),
        "product_tflops": round(2 * rows * 768 * 3072 / product["us"] / 1e6, 1),
        "copy_tb_per_s": round(2 * size / copy["us"] / 1e6, 2),
        "launch": device.time(lambda: target[:1].zero_()),
    }

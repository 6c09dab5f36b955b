"""What products in FP8 would save: those of a BERT-base layer, with a scale for each row, beside bfloat16."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from gpu_items.device import Device

PRODUCTS = {  # outputs, inputs
    "qkv": (2304, 768),
    "attention_output": (768, 768),
    "intermediate": (3072, 768),
    "output": (768, 3072),
}
_MOST_ERROR = (
    0.06  # of normal numbers, whose last bit of three is 1/16 of them at most, rounded by half of it on both sides
)


def products(tokens: int, device: Device) -> dict[str, Any]:
    """Time each product in both, and tell how far FP8 is from float32, as a share of the result's norm.

    Rounding the rows is not timed here: half of them are written so by a kernel of the layer, which layers.py times.
    """
    torch.manual_seed(0)
    tokens = 64 if device.is_small else tokens
    figures: dict[str, Any] = {"ok": True, "bf16_us": 0.0, "fp8_us": 0.0}
    for name, (outputs, inputs) in PRODUCTS.items():
        rows, weight = torch.randn(tokens, inputs), torch.randn(outputs, inputs) / inputs**0.5
        narrow_rows, narrow_weight = (device.move(x.bfloat16()) for x in (rows, weight))
        (a, row_scales), (b, weight_scales) = (map(device.move, rounded(x)) for x in (rows, weight))
        in_fp8 = partial(
            torch._scaled_mm, a, b.t(), scale_a=row_scales, scale_b=weight_scales.t(), out_dtype=torch.bfloat16
        )
        found = in_fp8()
        want = rows @ weight.t()
        error = float((found.cpu().float() - want).norm() / want.norm())
        times = {
            "bf16": device.time(partial(linear, narrow_rows, narrow_weight)),
            "fp8": device.time(in_fp8),
        }
        figures[name] = {**times, "error": round(error, 4)}
        figures["ok"] = figures["ok"] and error < _MOST_ERROR
        for dtype, time in times.items():
            figures[f"{dtype}_us"] = round(figures[f"{dtype}_us"] + time["us"], 1)
    return figures


def rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 [rows, columns] as float8_e4m3fn, and the scale of every row, float32 [rows, 1]."""
    scales = matrix.abs().amax(dim=1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
    return (matrix / scales).to(torch.float8_e4m3fn), scales

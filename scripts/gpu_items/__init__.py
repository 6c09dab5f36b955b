"""What scripts/gpu_smoke.py tries on a GPU, item by item. Each returns plain figures, `ok` among them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gpu_items import calls, eight_bits, graphs, kernels, layers, machine, profiles
from gpu_items.device import Device

Item = Callable[[Device], dict[str, Any]]

_BFLOAT16, _FLOAT16, _FLOAT32 = torch.bfloat16, torch.float16, torch.float32

# In the order in which they are best tried: what needs no build, the compiled kernels, and what is made of both.
ITEMS: dict[str, Item] = {
    "machine": machine.rates,
    "triton_head_bf16": partial(kernels.attentive_head, "triton", _BFLOAT16),
    "triton_head_fp32": partial(kernels.attentive_head, "triton", _FLOAT32),
    "triton_linear_bf16": partial(kernels.attentive_head, "triton", _BFLOAT16, activation="identity"),
    "triton_compact": partial(kernels.compaction, "triton", _BFLOAT16),
    "triton_pooled": partial(kernels.pooled_exit_head, "triton", _BFLOAT16, "mean"),
    "cuda_head_bf16": partial(kernels.attentive_head, "cuda", _BFLOAT16, fold=_BFLOAT16),
    "cuda_head_fp16": partial(kernels.attentive_head, "cuda", _FLOAT16),
    "cuda_head_fp32": partial(kernels.attentive_head, "cuda", _FLOAT32),
    "cuda_head_c256": partial(kernels.attentive_head, "cuda", _BFLOAT16, sizes=(136, 256, 8, 77)),
    "cuda_linear_fp32": partial(kernels.attentive_head, "cuda", _FLOAT32, activation="identity"),
    "cuda_compact": partial(kernels.compaction, "cuda", _BFLOAT16),
    "cuda_compact_int8": partial(kernels.compaction, "cuda", torch.int8),
    "cuda_pooled": partial(kernels.pooled_exit_head, "cuda", _BFLOAT16, "max"),
    "graph_stages": partial(graphs.loop, chained=False),
    "graph_chain": partial(graphs.loop, chained=True),
    "calls_at_once": calls.at_once,
    "layer_2048": partial(layers.encoder_layer, 2048),
    "layer_16384": partial(layers.encoder_layer, 16384),
    "fp8_2048": partial(eight_bits.products, 2048),
    "fp8_16384": partial(eight_bits.products, 16384),
    "profile_b1": partial(profiles.patched, 1, "mixed"),
    "profile_b128_mixed": partial(profiles.patched, 128, "mixed"),
    "profile_b128_full": partial(profiles.patched, 128, "full"),
}

"""One encoder layer of BERT-base in bfloat16: the fused one, the plain one, and their parts."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from fastbert_kernels.engine.attention import packed_attention
from fastbert_kernels.engine.layer import TorchLayer
from gpu_items.device import Device
from helpers.op_inputs import cu_seqlens_of, layer_weights

LENGTH = 128


def encoder_layer(tokens: int, device: Device) -> dict[str, Any]:
    """Time a layer on samples of 128 tokens, and what GELU as the product's epilogue would save."""
    torch.manual_seed(0)
    tokens = 2 * LENGTH if device.is_small else tokens
    weights = TorchLayer.cast(layer_weights(768, 3072, 12), torch.bfloat16).weights
    moved = {name: device.move(value) for name, value in vars(weights).items() if isinstance(value, Tensor)}
    weights = dataclasses.replace(weights, **moved)
    hidden = torch.randn(tokens, 768).bfloat16().to(device.name)
    cu_seqlens = cu_seqlens_of([LENGTH] * (tokens // LENGTH)).to(device.name)
    plain = TorchLayer(weights)
    qkv = linear(hidden, weights.qkv_weight, weights.qkv_bias)
    figures: dict[str, Any] = {
        "ok": True,
        "plain": device.time(lambda: plain(hidden, cu_seqlens, LENGTH)),
        "qkv": device.time(lambda: linear(hidden, weights.qkv_weight, weights.qkv_bias)),
        "attention": device.time(lambda: packed_attention(qkv, cu_seqlens, LENGTH, 12)),
        "intermediate": device.time(lambda: linear(hidden, weights.intermediate_weight)),
        "intermediate_with_gelu": device.time(
            lambda: torch._addmm_activation(
                weights.intermediate_bias, hidden, weights.intermediate_weight.t(), use_gelu=True
            )
        ),
    }
    if device.is_gpu:
        figures |= _fused(weights, hidden, cu_seqlens, plain, device)
    return figures


def _fused(weights: Any, hidden: Tensor, cu_seqlens: Tensor, plain: TorchLayer, device: Device) -> dict[str, Any]:
    from fastbert_kernels.engine.fused_layer import FusedLayer  # it needs Triton
    from fastbert_kernels.triton import elementwise

    fused = FusedLayer(weights)
    difference = (fused(hidden, cu_seqlens, LENGTH) - plain(hidden, cu_seqlens, LENGTH)).abs().max()
    inner = linear(hidden, weights.intermediate_weight)
    return {
        "ok": float(difference) < 0.1,
        "fused": device.time(lambda: fused(hidden, cu_seqlens, LENGTH)),
        "gelu": device.time(lambda: elementwise.bias_activation_(inner, weights.intermediate_bias, "gelu")),
    }

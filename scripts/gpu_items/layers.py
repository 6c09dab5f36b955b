"""One encoder layer of BERT-base in bfloat16: the fused one, the plain one, and their parts."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from fastbert_kernels.engine.attention import attend_by, attention_choice, packed_attention
from fastbert_kernels.engine.attention_choice import WAYS
from fastbert_kernels.engine.layer import TorchLayer
from gpu_items.device import Device
from helpers.op_inputs import cu_seqlens_of, layer_weights

LENGTH = 128
_MOST_FP8_ERROR = 0.2  # twice what a CPU finds with these weights


def encoder_layer(tokens: int, device: Device) -> dict[str, Any]:
    """Time a layer on samples of 128 tokens, the ways of its attention, and GELU as the product's epilogue."""
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
    }
    if device.is_gpu:
        figures |= _fused(weights, hidden, cu_seqlens, plain, device)
    return figures


def _fused(weights: Any, hidden: Tensor, cu_seqlens: Tensor, plain: TorchLayer, device: Device) -> dict[str, Any]:
    from fastbert_kernels.engine.fused_layer import FusedLayer, linear_gelu_by_tanh  # they need Triton
    from fastbert_kernels.triton import elementwise

    fused, by_tanh = FusedLayer(weights), FusedLayer(weights.by_tanh())
    want = plain(hidden, cu_seqlens, LENGTH)
    differences = [float((layer(hidden, cu_seqlens, LENGTH) - want).abs().max()) for layer in (fused, by_tanh)]
    inner = linear(hidden, weights.intermediate_weight)
    product = weights.intermediate_weight, weights.intermediate_bias
    heads = linear(hidden, weights.qkv_weight, weights.qkv_bias).view(-1, 3, 12, 64)
    in_fp8 = _fp8(weights, hidden, cu_seqlens, want, device)
    return {
        "ok": max(differences) < 0.1 and in_fp8.get("error", 0.0) < _MOST_FP8_ERROR,
        "fused": device.time(lambda: fused(hidden, cu_seqlens, LENGTH)),
        "fused_by_tanh": device.time(lambda: by_tanh(hidden, cu_seqlens, LENGTH)),
        "intermediate_with_gelu": device.time(lambda: linear_gelu_by_tanh(hidden, *product)),
        "gelu": device.time(lambda: elementwise.bias_activation_(inner, weights.intermediate_bias, "gelu")),
        "ways": {way: device.time(lambda way=way: attend_by(way, heads, cu_seqlens, LENGTH)) for way in WAYS},
        "choice": attention_choice(hidden.device, torch.bfloat16, 12, 64).as_dict(),
        "fp8": in_fp8,
    }


def _fp8(weights: Any, hidden: Tensor, cu_seqlens: Tensor, want: Tensor, device: Device) -> dict[str, Any]:
    """Time the layer with products in FP8, and tell how far it is from bfloat16, as a share of the norm."""
    from fastbert_kernels.engine.fp8_layer import Fp8Layer

    if reason := Fp8Layer.unsupported(hidden.device, weights):
        return {"unsupported": reason}
    layer = Fp8Layer.cast(weights, torch.bfloat16)
    error = (layer(hidden, cu_seqlens, LENGTH).float() - want.float()).norm() / want.float().norm()
    return {**device.time(lambda: layer(hidden, cu_seqlens, LENGTH)), "error": round(float(error), 4)}

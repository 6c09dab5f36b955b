"""An encoder ready to run: layers and exit heads in the fastest form that device, precision and backend allow."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastbert_kernels import backends
from fastbert_kernels.engine.attention import attention_choice
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.dtypes import EncoderDtype, Fp8, TanhGelu, hidden_dtype, int8_products
from fastbert_kernels.engine.graphs import GraphedLoop
from fastbert_kernels.engine.layer import NoLayer, TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.spans import Encoder
from fastbert_kernels.engine.weights import GELU_BY_TANH, ExitHead, LayerWeights


def prepare_encoder(
    layers: Sequence[LayerWeights | None], heads: Sequence[ExitHead | None], dtype: EncoderDtype | None, backend: str
) -> Encoder:
    """Make an encoder.

    Args:
        layers: L layers, as the model has them. None, not in the first place: the head that belongs to it is a second
            one behind the layer before, asked of those whom the first did not let out.
        heads: L exit heads made for `hidden_dtype`, None behind a layer without one; the last layer has one.
        dtype: precision; None keeps that of the weights.
        backend: as in `patch`.

    Raises:
        ValueError: dtype int8, which only the compiled CPU kernels have, or FP8, which some GPUs have; GELU by tanh
            where nothing has it for free, or in place of another activation.
    """
    first = layers[0]
    assert first is not None
    weight = first.qkv_weight
    target = hidden_dtype(dtype, weight.dtype)
    reason = CompiledEncoder.unsupported(target, first, heads)
    resolved = backends.resolve(backend, weight.device)
    if isinstance(dtype, TanhGelu):
        _check_tanh_gelu(first, resolved)
        layers = [None if layer is None else layer.by_tanh() for layer in layers]
        first = first.by_tanh()
    if isinstance(dtype, Fp8):
        kind = _fp8_kind(resolved, [layer for layer in layers if layer is not None])
    elif resolved == "cpu" and reason is None:
        return CompiledEncoder(layers, heads, target, int8_products(dtype))
    elif int8_products(dtype):
        detail = reason or f"this is backend {backend!r} on {weight.device.type}"
        raise ValueError(f"dtype=torch.int8 needs the compiled CPU kernels, but {detail}; take torch.bfloat16 instead")
    else:
        kind = _layer_kind(resolved, target, first)
    loop = GraphedLoop if _on_gpu(resolved) else LayerLoop
    heads_of_first, width = first.num_attention_heads, weight.shape[1]
    attention = attention_choice(weight.device, target, heads_of_first, width // heads_of_first)
    made = [NoLayer(target) if layer is None else kind.cast(layer, target, attention) for layer in layers]
    return loop(made, list(heads), backend)


def _check_tanh_gelu(first: LayerWeights, backend: str) -> None:
    if not _on_gpu(backend):
        raise ValueError(
            f"tanh_gelu spares a GPU a pass over its memory; for backend {backend!r} on {first.qkv_weight.device.type} "
            "it has no use: leave it out"
        )
    if first.activation_name == GELU_BY_TANH:
        raise ValueError("this model's own GELU is the one by tanh: leave tanh_gelu out, which changes nothing")
    if first.activation_name != "gelu":
        raise ValueError(
            f"tanh_gelu takes the place of GELU by the error function, and this model has {first.activation_name!r}: "
            "leave it out"
        )


def _on_gpu(backend: str) -> bool:
    return backends.BACKENDS[backend].device_type == "cuda"  # not so for the reference, wherever it runs


def _layer_kind(backend: str, dtype: torch.dtype, weights: LayerWeights) -> type[TorchLayer]:
    """Return what runs hidden states of `dtype` through such layers beside the ops of `backend`."""
    if not _on_gpu(backend) or backends.BACKENDS["triton"].unavailable() is not None:
        return TorchLayer
    from fastbert_kernels.engine.fused_layer import FusedLayer  # it imports Triton

    return FusedLayer if FusedLayer.unsupported(dtype, weights) is None else TorchLayer


def _fp8_kind(backend: str, layers: Sequence[LayerWeights]) -> type[TorchLayer]:
    """Return what runs such layers with products in FP8 beside the ops of `backend`.

    Raises:
        ValueError: nothing has.
    """
    device = layers[0].qkv_weight.device
    if not _on_gpu(backend):
        raise ValueError(
            f"dtype='fp8' is for GPUs from compute capability 9.0 on, and this is backend {backend!r} on "
            f"{device.type}; on a CPU take torch.int8"
        )
    reason = backends.BACKENDS["triton"].unavailable()
    if reason is None:
        from fastbert_kernels.engine.fp8_layer import Fp8Layer  # it imports Triton

        reasons = (Fp8Layer.unsupported(device, weights) for weights in layers)
        if (reason := next(filter(None, reasons), None)) is None:
            return Fp8Layer
    raise ValueError(f"dtype='fp8' is not available for this model: {reason}; take torch.bfloat16 instead")

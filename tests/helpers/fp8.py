"""Products in FP8 in plain PyTorch, for tests of those who compute them another way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.weights import LayerWeights
from fastbert_kernels.hosts import fastbert_hf as host
from fastbert_kernels.layer_norm import LAYER_NORMS

LARGEST = 448.0  # of float8_e4m3fn


def rounded(matrix: Tensor) -> Tensor:
    """Return what is left of a float64 matrix in FP8 with a scale for each row."""
    scales = matrix.abs().amax(dim=1, keepdim=True) / LARGEST
    return (matrix / scales).to(torch.float8_e4m3fn).double() * scales


def layer_with_rounding(weights: LayerWeights, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Compute a layer in float64, but for operands of products, which are rounded to FP8, and residuals, to bfloat16.

    Args:
        weights: float64.
        hidden: [T, H] bfloat16; the others as of `engine.layer.Layer`.
    """
    hidden, norm = hidden.double(), LAYER_NORMS[weights.layer_norm]

    def product(rows: Tensor, name: str) -> Tensor:
        return rounded(rows) @ rounded(getattr(weights, f"{name}_weight")).T + getattr(weights, f"{name}_bias")

    context = TorchLayer(weights).attend(product(hidden, "qkv"), cu_seqlens, max_seqlen)
    attended = product(context, "attention_output") + hidden
    attended = norm(attended, weights.attention_norm_weight, weights.attention_norm_bias, weights.layer_norm_eps)
    output = product(weights.activation(product(attended, "intermediate")), "output") + attended.bfloat16().double()
    return norm(output, weights.output_norm_weight, weights.output_norm_bias, weights.layer_norm_eps)


def share(difference: Tensor, whole: Tensor) -> float:
    """Return the norm of a difference as a share of that of the whole."""
    return float(difference.double().norm() / whole.double().norm())


@dataclass(frozen=True)
class RoundingLayer:
    """A layer of a loop in float64, with the roundings of one in FP8."""

    weights: LayerWeights
    dtype: torch.dtype = torch.float64

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        return layer_with_rounding(self.weights, hidden.bfloat16(), cu_seqlens, max_seqlen)


def loop_of(model: Any) -> LayerLoop:
    """Return the layers and heads of a `fastbert_hf` model in float64, on a CPU, as plain PyTorch runs them."""
    loop = host.encoder(model, None, "reference").get()
    assert isinstance(loop, LayerLoop) and loop.dtype == torch.float64
    return loop


def logits_of_all_exits(model: Any, loop: LayerLoop, input_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return float64 [B, E, N] of texts one behind the other."""
    batch = host.pack(model, loop, input_ids, cu_seqlens)
    return loop.every_exit(batch, model.config.exit_layers).double()

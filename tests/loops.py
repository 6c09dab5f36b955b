"""Layer loops and batches for tests of the engine."""

from __future__ import annotations

import dataclasses

import torch

from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.weights import HeadWeights
from support import cu_seqlens_of, head_weights, layer_weights


def random_loop(
    *, depth=4, hidden_size=32, dtype=torch.float64, device="cpu", backend="reference", layer=TorchLayer
) -> LayerLoop:
    """With uncertainties that spread over [0, 1] at every layer."""

    def head():
        projection, *rest = head_weights(hidden_size, 64, 2, 3)
        wide = torch.promote_types(dtype, torch.float32)
        return HeadWeights(projection.to(device, dtype), *(tensor.to(device, wide) for tensor in rest))

    def on_device(weights):
        tensors = {name: x.to(device) for name, x in vars(weights).items() if isinstance(x, torch.Tensor)}
        return layer.cast(dataclasses.replace(weights, **tensors), dtype)

    layers = [on_device(layer_weights(hidden_size, 2 * hidden_size, 4)) for _ in range(depth)]
    return LayerLoop(layers, [head() for _ in range(depth)], backend)


def random_batch(lengths, speed, *, hidden_size=32, dtype=torch.float64, device="cpu") -> PackedBatch:
    """`speed`: of all samples, or one for each. The rows of the results are in another order than the samples."""
    size = len(lengths)
    return PackedBatch(
        hidden=torch.randn(sum(lengths), hidden_size, dtype=torch.float64).to(device, dtype),
        cu_seqlens=cu_seqlens_of(lengths).to(device),
        sample_index=torch.randperm(size).int().to(device),
        speed=torch.as_tensor(speed, dtype=torch.float32).expand(size).to(device),
        max_seqlen=max(lengths),
    )

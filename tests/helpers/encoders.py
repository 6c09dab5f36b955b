"""Layer loops, encoders of every kind and batches for tests of the engine."""

from __future__ import annotations

import dataclasses
import math

import torch

from fastbert_kernels import ops
from fastbert_kernels.engine.buckets import MAX_SAMPLES
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.layer import NoLayer, TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.weights import AttentiveHeadWeights, PooledHeadWeights
from helpers.graphs import ALWAYS_MOVE, graphed
from helpers.op_inputs import cast_head, cu_seqlens_of, head_tensors, layer_weights, map_tensors, pooled_inputs

WIDTH = 32
ACTIVATIONS = {"identity": lambda x: x, "tanh": torch.tanh, "relu": torch.relu, "gelu": torch.nn.functional.gelu}
POOLINGS = {"first": lambda rows: rows[0], "mean": lambda rows: rows.mean(0), "max": lambda rows: rows.amax(0)}
ENCODERS = ["reference float64", "reference", "cpu", "compiled"]
GRAPHED = ["graphed float64", "chained float64"]  # stage by stage, and all stages at once


def random_loop(
    *, depth=4, hidden_size=32, dtype=torch.float64, device="cpu", backend="reference", layer=TorchLayer
) -> LayerLoop:
    """With uncertainties that spread over [0, 1] at every layer."""

    def head():
        head = cast_head(head_tensors(hidden_size, 64, 2, 3), dtype)
        return AttentiveHeadWeights(map_tensors(lambda x: x.to(device), head))

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


def pooled(*sizes, pooling="first", activation="tanh"):
    """With uncertainties that spread over [0, 1]; float64."""
    *_, weights, biases = pooled_inputs([1], (WIDTH, *sizes))
    weights[-1] *= 6 if pooling == "mean" else 2
    return PooledHeadWeights(tuple(weights), tuple(biases), pooling, activation)


def attentive():
    return AttentiveHeadWeights(head_tensors(WIDTH, 64, 2, 3))


def cast(head, dtype):
    """Matrices that meet hidden states in `dtype`, the rest in float32 (float64 for float64)."""
    if isinstance(head, PooledHeadWeights):
        wide = torch.promote_types(dtype, torch.float32)
        weights = tuple(weight.to(dtype) for weight in head.weights)
        return PooledHeadWeights(weights, tuple(bias.to(wide) for bias in head.biases), head.pooling, head.activation)
    return dataclasses.replace(head, tensors=cast_head(head.tensors, dtype))


def make_batch(lengths, speed, dtype=torch.float64):
    """With results in the order of the samples, as the compiled encoder has them."""
    batch = random_batch(lengths, speed, hidden_size=WIDTH, dtype=dtype)
    batch.sample_index = torch.arange(len(lengths), dtype=torch.int32)
    return batch


def make_encoder(kind, layers, heads):
    """`kind`: of ENCODERS or GRAPHED."""
    dtype = torch.float64 if kind.endswith("float64") else torch.float32
    heads = [None if head is None else cast(head, dtype) for head in heads]
    weights = [None if isinstance(layer, NoLayer) else layer.weights for layer in layers]
    if kind == "compiled":
        return CompiledEncoder(weights, heads, dtype)
    layers = [NoLayer(dtype) if layer is None else TorchLayer.cast(layer, dtype) for layer in weights]
    if kind in GRAPHED:
        plain = LayerLoop(layers, heads, "reference")
        return graphed(plain, whole_depth_samples=MAX_SAMPLES * kind.startswith("chained"), move=ALWAYS_MOVE)[0]
    return LayerLoop(layers, heads, kind.split()[0])


def evaluate(head, rows):
    """Logits [N] and uncertainty of one sample's rows, by the definition of a pooled head."""
    if isinstance(head, AttentiveHeadWeights):
        logits, uncertainty, _, _ = ops.attentive_head(rows, cu_seqlens_of([len(rows)]), torch.ones(1), head.tensors)
        return logits[0], uncertainty[0]
    features = POOLINGS[head.pooling](rows)
    for number, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
        features = weight @ (ACTIVATIONS[head.activation](features) if number else features) + bias
    probabilities = torch.softmax(features, 0)
    return features, -(probabilities * probabilities.log()).sum() / math.log(len(features))

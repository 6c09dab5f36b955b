"""`torch.ops.fastbert.pooled_exit_head`: the exit decision of a head that pools and classifies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels import _extension, reference
from fastbert_kernels.criteria import check_labels
from fastbert_kernels.exit_heads import HeadInputs, PooledHeadWeights
from fastbert_kernels.ops import library

POOLINGS = ("first", "mean", "max")
MAX_LAYERS = 3


@library.op()
def pooled_exit_head(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    pooling: str = "first",
    activation: str = "tanh",
    history: Tensor | None = None,
    criterion: str = "entropy",
    parameter: int = 0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pooling, one to three linear layers, softmax, uncertainty and exit decision of every sample of a packed batch.

    The [CLS] highway of DeeBERT (one layer) and BERT's pooler with a classifier (two layers, tanh) are cases of it.

    Args:
        hidden: [T, H] float32, bfloat16, float16 or float64; T tokens of B samples, no padding.
        cu_seqlens: [B + 1] int32, begins with 0 and ends with T.
        speed: [B] float32, the threshold of each sample.
        weights: of each layer [out, in], of the dtype of `hidden`; the first takes H, the last gives N labels.
        biases: of each layer [out], float32 (float64 when `hidden` is).
        pooling: "first", "mean" or "max", over the sample's tokens.
        activation: between layers: "identity", "tanh", "relu" or "gelu".
        history: as in `attentive_head`.
        criterion: as in `attentive_head`.
        parameter: as in `attentive_head`.
        backend: as in `attentive_head`.

    Returns, Raises:
        As `attentive_head`.
    """
    library.check_head_inputs(hidden, cu_seqlens, speed, history, criterion, parameter)
    library.check_choice("activation", activation, *reference.ACTIVATIONS)
    library.check_choice("pooling", pooling, *POOLINGS)
    if not 1 <= len(weights) <= MAX_LAYERS or len(biases) != len(weights):
        raise ValueError(
            f"a pooled head has 1 to {MAX_LAYERS} layers with a bias each, not {len(weights)} and {len(biases)}"
        )
    check, device, width = library.check_tensor, hidden.device, hidden.shape[1]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.dim() != 2:
            raise ValueError(f"weights[{number}] must be [out, in], not {list(weight.shape)}")
        out = weight.shape[0]
        check(f"weights[{number}]", weight, device, (out, width), hidden.dtype)
        check(f"biases[{number}]", bias, device, (out,), torch.promote_types(hidden.dtype, torch.float32))
        width = out
    check_labels(criterion, width)
    return library.decision_results(hidden, speed.shape[0], width)


def _cpu(results: tuple[Tensor, ...], inputs: HeadInputs, head: PooledHeadWeights) -> None:
    native = _extension.module()
    features = torch.empty(inputs.speed.shape[0], inputs.hidden.shape[1])
    native.pool(inputs.hidden, inputs.cu_seqlens, head.pooling, features)
    for number, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
        if number:
            features = reference.ACTIVATIONS[head.activation](features)
        # B rows only: a product for the matrix library, in float32 whatever the rows were.
        features = F.linear(features, weight.float(), bias)
    native.decide(features, inputs.speed, results, **inputs.decision)


def cuda_pooled_head(head: PooledHeadWeights) -> Any:
    """Return the head as the compiled CUDA kernels read it.

    Args:
        head: its tensors contiguous, on a GPU, the weights at addresses that 16 divides. What is written to them later
            is seen.

    Raises:
        Unsupported: the kernels do not cover it.
    """
    return _extension.module().CudaPooledHead([*head.weights], [*head.biases], head.pooling, head.activation)


def _cuda(results: tuple[Tensor, ...], inputs: HeadInputs, head: PooledHeadWeights) -> None:
    hidden, *weights = library.aligned(inputs.hidden, *head.weights)
    native = cuda_pooled_head(dataclasses.replace(head, weights=weights))
    native.decide(hidden, inputs.cu_seqlens, inputs.speed, results, **inputs.decision)


library.implement(
    pooled_exit_head,
    arguments=library.head_arguments(PooledHeadWeights),
    cuda=_cuda,
    triton=library.triton("pooled_exit_head"),
    cpu=_cpu,
    reference=reference.pooled_exit_head,
)

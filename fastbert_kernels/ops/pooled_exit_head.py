"""`torch.ops.fastbert.pooled_exit_head`: the exit decision of a head that pools and classifies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels import _extension, backends, reference
from fastbert_kernels.ops import library

SCHEMA = (
    "pooled_exit_head(Tensor hidden, Tensor cu_seqlens, Tensor speed, Tensor[] weights, Tensor[] biases, *, "
    f"str pooling='first', str activation='tanh', {library.DECISION_SCHEMA}) -> {library.DECISION_RESULT}"
)

# In the order of `enum class Pooling` in csrc/pooled_exit_head.h.
POOLINGS = ("first", "mean", "max")
MAX_LAYERS = 3


def pooled_exit_head(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
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
        cu_seqlens: [B + 1] int32, begins with 0 and ends with T. speed: [B] float32, the threshold of each sample.
        weights: of each layer [out, in], of the dtype of `hidden`; the first takes H, the last gives N >= 2 labels.
        biases: of each layer [out], float32 (float64 when `hidden` is).
        pooling: "first", "mean" or "max", over the sample's tokens.
        activation: between layers: "identity", "tanh", "relu" or "gelu".
        history, criterion, parameter, backend: as in `exit_head`.

    Returns, Raises:
        As `exit_head`.
    """
    return torch.ops.fastbert.pooled_exit_head(
        hidden,
        cu_seqlens,
        speed,
        weights,
        biases,
        pooling=pooling,
        activation=activation,
        history=history,
        criterion=criterion,
        parameter=parameter,
        backend=backend,
    )


def _check(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    *,
    pooling: str = "first",
    activation: str = "tanh",
    history: Tensor | None = None,
    criterion: str = "entropy",
    parameter: int = 0,
) -> None:
    library.check_head_inputs(hidden, cu_seqlens, speed, history, criterion, parameter)
    library.check_activation("activation", activation, *reference.ACTIVATIONS)
    library.check_activation("pooling", pooling, *POOLINGS)
    if not 1 <= len(weights) <= MAX_LAYERS or len(biases) != len(weights):
        raise ValueError(
            f"a pooled head has 1 to {MAX_LAYERS} layers with a bias each, not {len(weights)} and {len(biases)}"
        )
    width = hidden.shape[1]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.dim() != 2:
            raise ValueError(f"weights[{number}] must be [out, in], not {list(weight.shape)}")
        out = weight.shape[0]
        library.check_shape(f"weights[{number}]", weight, (out, width), hidden.dtype)
        library.check_shape(f"biases[{number}]", bias, (out,), torch.promote_types(hidden.dtype, torch.float32))
        library.check_device(hidden.device, **{f"weights[{number}]": weight, f"biases[{number}]": bias})
        width = out
    if width < 2:
        raise ValueError(f"a classifier needs at least 2 labels, the last weight has {width}")


def _kernel(hidden: Tensor, *arguments: Any, backend: str = "auto", **options: Any) -> tuple[Tensor, ...]:
    _check(hidden, *arguments, **options)
    chosen = backends.resolve(backend, hidden.device)
    if hidden.dtype == torch.float64:
        chosen = "reference"  # no compiled kernel has float64
    if chosen == "reference":
        backends.refuse_reference("pooled_exit_head", f"{hidden.dtype}, backend {backend!r}")
    return IMPLEMENTATIONS[chosen](hidden, *arguments, **options)


def _fake(hidden: Tensor, *arguments: Any, backend: str = "auto", **options: Any) -> tuple[Tensor, ...]:
    _check(hidden, *arguments, **options)
    return library.decision_outputs(hidden, arguments[1].shape[0], arguments[2][-1].shape[0])


def _cpu(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    *,
    pooling: str = "first",
    activation: str = "tanh",
    history: Tensor | None = None,
    **criterion: Any,
) -> tuple[Tensor, ...]:
    native = _extension.module()
    hidden, cu_seqlens, speed, history = library.contiguous(hidden, cu_seqlens, speed, history)
    batch, width = speed.shape[0], hidden.shape[1]
    features = torch.empty(batch, width)
    dtype = _extension.DTYPE_CODES[hidden.dtype]
    native.pool_cpu(
        *(hidden.data_ptr(), dtype, cu_seqlens.data_ptr(), batch, width, POOLINGS.index(pooling), features.data_ptr())
    )
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if number:
            features = reference.ACTIVATIONS[activation](features)
        # B rows only: a product for the matrix library, in float32 whatever the rows were.
        features = F.linear(features, weight.float(), bias)
    outputs = library.decision_outputs(hidden, batch, features.shape[1])
    decision, native_outputs = library.native_decision(speed, history, outputs=outputs, **criterion)
    native.decide_cpu(features.data_ptr(), batch, features.shape[1], decision, native_outputs)
    return outputs


def _cuda(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    *,
    pooling: str = "first",
    activation: str = "tanh",
    history: Tensor | None = None,
    **criterion: Any,
) -> tuple[Tensor, ...]:
    native = _extension.module()
    cu_seqlens, speed, history = library.contiguous(cu_seqlens, speed, history)
    hidden, *weights = library.aligned(hidden, *weights)
    biases = library.contiguous(*biases)
    dtype = _extension.DTYPE_CODES[hidden.dtype]
    head = native.PooledHeadWeights(
        [weight.data_ptr() for weight in weights],
        [bias.data_ptr() for bias in biases],
        [hidden.shape[1], *(weight.shape[0] for weight in weights)],
        POOLINGS.index(pooling),
        library.ACTIVATION_CODES[activation],
    )
    if reason := native.pooled_exit_head_cuda_unsupported(head, dtype):
        backends.warn_about_fallback("pooled_exit_head", reason)
        return reference.pooled_exit_head(
            *(hidden, cu_seqlens, speed, weights, biases),
            pooling=pooling,
            activation=activation,
            history=history,
            **criterion,
        )
    outputs = library.decision_outputs(hidden, speed.shape[0], weights[-1].shape[0])
    decision, native_outputs = library.native_decision(speed, history, outputs=outputs, **criterion)
    native.pooled_exit_head_cuda(
        hidden.data_ptr(),
        dtype,
        cu_seqlens.data_ptr(),
        speed.shape[0],
        head,
        decision,
        native_outputs,
        hidden.device.index,
        library.current_stream(hidden.device),
    )
    return outputs


def _triton(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    from fastbert_kernels.triton import pooled_exit_head

    return pooled_exit_head(*arguments, **options)


IMPLEMENTATIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "cuda": _cuda,
    "triton": _triton,
    "cpu": _cpu,
    "reference": reference.pooled_exit_head,
}
library.register(SCHEMA, _kernel, _fake, "CPU", "CUDA")
library.show_triton("pooled_exit_head")

"""`torch.ops.fastbert.exit_head`: the whole exit decision of a layer in one op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels import _extension, backends, reference
from fastbert_kernels.ops import library, packing

SCHEMA = (
    "exit_head(Tensor hidden, Tensor cu_seqlens, Tensor speed, Tensor projection_weight, Tensor projection_bias, "
    "Tensor query, Tensor query_bias, Tensor value, Tensor value_bias, Tensor output_weight, Tensor output_bias, *, "
    "str narrow_activation='tanh', str mlp_activation='tanh', Tensor? projection_packed=None, "
    f"{library.DECISION_SCHEMA}) -> {library.DECISION_RESULT}"
)


def exit_head(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    projection_weight: Tensor,
    projection_bias: Tensor,
    query: Tensor,
    query_bias: Tensor,
    value: Tensor,
    value_bias: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    *,
    narrow_activation: str = "tanh",
    mlp_activation: str = "tanh",
    projection_packed: Tensor | None = None,
    history: Tensor | None = None,
    criterion: str = "entropy",
    parameter: int = 0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention pooling, MLP, softmax, uncertainty and exit decision of every sample of a packed batch.

    With X [n, H] the rows of one sample (FastBERT, section 3.2; only the [CLS] query of its attention is ever used, so
    the products of neighbouring matrices are folded, see `fastbert_kernels.engine.folding`)::

        Z      = f(X projection_weight^T + projection_bias)                      [n, C]  f = narrow_activation
        u_i    = Z_0 query_i + query_bias_i                                      [C]     i = 1..h
        c_i    = softmax_j(u_i . Z_j) Z                                          [C]
        t      = g([c_1 .. c_h] value + value_bias)                              [C]     g = mlp_activation
        logits = t output_weight^T + output_bias                                 [N]

    Args:
        hidden: [T, H] float32, bfloat16, float16 or float64; T tokens of B samples, no padding.
        cu_seqlens: [B + 1] int32, begins with 0 and ends with T.
        speed: [B] float32, the threshold of each sample.
        projection_weight: [C, H] of the dtype of `hidden`.
        query, value: [h, C, C] and [h * C, C], float32 or the dtype of `hidden`.
        projection_bias: [C]; query_bias: [h, C]; value_bias: [C]; output_weight: [N, C]; output_bias: [N], N >= 2; all
            float32 (float64 when `hidden` is, and then `query` and `value` too).
        narrow_activation, mlp_activation: "tanh" or "identity".
        projection_packed: the projection as `packing.pack_linear` returns it for the dtype of `hidden`, so that the
            compiled CPU kernel need not pack it at every call; no other backend reads it.
        history: [B, 2] int32, as returned by the head before; None at the first head.
        criterion: a name of `fastbert_kernels.criteria`.
        parameter: the number that belongs to it; 0 for a criterion that has none.
        backend: "auto" or a name of `fastbert_kernels.backends.BACKENDS`.

    Returns:
        logits [B, N] and uncertainty [B], float32 (float64 when `hidden` is); history [B, 2] int32: the predicted class
        and how many heads in a row predicted it; keep [B] bool, True for samples that stay. A sample without tokens, or
        with a NaN in its rows, has the uncertainty NaN, the prediction -1 and the streak 0, and stays; its neighbours
        are not touched.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices or names do not fit. RuntimeError: a named backend is not there.
    """
    return torch.ops.fastbert.exit_head(
        hidden,
        cu_seqlens,
        speed,
        projection_weight,
        projection_bias,
        query,
        query_bias,
        value,
        value_bias,
        output_weight,
        output_bias,
        narrow_activation=narrow_activation,
        mlp_activation=mlp_activation,
        projection_packed=projection_packed,
        history=history,
        criterion=criterion,
        parameter=parameter,
        backend=backend,
    )


def _check(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    *weights: Tensor,
    narrow_activation: str = "tanh",
    mlp_activation: str = "tanh",
    history: Tensor | None = None,
    criterion: str = "entropy",
    parameter: int = 0,
) -> None:
    library.check_head_inputs(hidden, cu_seqlens, speed, history, criterion, parameter)
    library.check_activation("narrow_activation", narrow_activation, "tanh", "identity")
    library.check_activation("mlp_activation", mlp_activation, "tanh", "identity")
    projection_weight, projection_bias, query, query_bias, value, value_bias, output_weight, output_bias = weights
    if query.dim() != 3 or output_weight.dim() != 2:
        shapes = f"{list(query.shape)}, {list(output_weight.shape)}"
        raise ValueError(f"query must be [h, C, C] and output_weight [N, C], not {shapes}")
    heads, narrow, _ = query.shape
    labels = output_weight.shape[0]
    if labels < 2:
        raise ValueError(f"a classifier needs at least 2 labels, output_weight has {labels}")
    precise = torch.promote_types(hidden.dtype, torch.float32)
    library.check_shape("projection_weight", projection_weight, (narrow, hidden.shape[1]), hidden.dtype)
    library.check_shape("projection_bias", projection_bias, (narrow,), precise)
    library.check_shape("query", query, (heads, narrow, narrow), precise, hidden.dtype)
    library.check_shape("query_bias", query_bias, (heads, narrow), precise)
    library.check_shape("value", value, (heads * narrow, narrow), query.dtype)
    library.check_shape("value_bias", value_bias, (narrow,), precise)
    library.check_shape("output_weight", output_weight, (labels, narrow), precise)
    library.check_shape("output_bias", output_bias, (labels,), precise)
    library.check_device(
        hidden.device, projection_weight=projection_weight, query=query, value=value, output_weight=output_weight
    )


def _kernel(
    hidden: Tensor,
    *tensors: Tensor,
    projection_packed: Tensor | None = None,
    backend: str = "auto",
    **options: Any,
) -> tuple[Tensor, ...]:
    _check(hidden, *tensors, **options)
    chosen = backends.resolve(backend, hidden.device)
    if hidden.dtype == torch.float64:
        chosen = "reference"  # no compiled kernel has float64
    if chosen == "reference":
        backends.refuse_reference("exit_head", f"{hidden.dtype}, backend {backend!r}")
    if chosen == "cpu":
        options["projection_packed"] = projection_packed
    return IMPLEMENTATIONS[chosen](hidden, *tensors, **options)


def _fake(
    hidden: Tensor,
    *tensors: Tensor,
    projection_packed: Tensor | None = None,
    backend: str = "auto",
    **options: Any,
) -> tuple[Tensor, ...]:
    _check(hidden, *tensors, **options)
    return library.decision_outputs(hidden, tensors[1].shape[0], tensors[8].shape[0])


def _native_arguments(
    hidden: Tensor, batch: int, weights: list[Tensor], narrow_activation: str, mlp_activation: str
) -> tuple[Any, Any]:
    """The structs of csrc/exit_head.h; `weights` must be contiguous and outlive the call."""
    native = _extension.module()
    heads, narrow, _ = weights[2].shape
    native_weights = native.ExitHeadWeights(
        *(weight.data_ptr() for weight in weights),
        _extension.DTYPE_CODES[weights[2].dtype],
        library.ACTIVATION_CODES[narrow_activation],
        library.ACTIVATION_CODES[mlp_activation],
    )
    return native_weights, native.ExitHeadShape(
        hidden.shape[0], batch, hidden.shape[1], narrow, heads, weights[6].shape[0]
    )


def _cpu(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    *weights: Tensor,
    narrow_activation: str = "tanh",
    mlp_activation: str = "tanh",
    projection_packed: Tensor | None = None,
    history: Tensor | None = None,
    **criterion: Any,
) -> tuple[Tensor, ...]:
    native = _extension.module()
    hidden, cu_seqlens, speed, history = library.contiguous(hidden, cu_seqlens, speed, history)
    weights = tuple(library.contiguous(*weights))
    projection_weight, projection_bias, query, query_bias, value, *rest = weights
    alive = [projection_weight, projection_bias, query.float(), query_bias, value.float(), *rest]
    outputs = library.decision_outputs(hidden, speed.shape[0], alive[6].shape[0])
    decision, native_outputs = library.native_decision(speed, history, outputs=outputs, **criterion)
    if narrow_activation == "identity":
        logits = _cpu_linear(hidden, cu_seqlens, alive, mlp_activation)
        native.decide_cpu(logits.data_ptr(), *logits.shape, decision, native_outputs)
        return outputs
    narrow, width = projection_weight.shape
    operand = packing.product_operand(hidden.dtype, width)
    if projection_packed is None:
        projection_packed = packing.pack_linear(projection_weight, projection_bias, operand)
    library.check_shape(
        "projection_packed", projection_packed, (packing.packed_bytes(narrow, width, operand),), torch.uint8
    )
    native_weights, shape = _native_arguments(hidden, speed.shape[0], alive, narrow_activation, mlp_activation)
    native.exit_head_cpu(
        hidden.data_ptr(),
        _extension.DTYPE_CODES[hidden.dtype],
        cu_seqlens.data_ptr(),
        packing.native_matrix(projection_packed, narrow, width, operand),
        native_weights,
        shape,
        decision,
        native_outputs,
    )
    return outputs


def _cpu_linear(hidden: Tensor, cu_seqlens: Tensor, weights: list[Tensor], mlp_activation: str) -> Tensor:
    """Logits with the identity as narrow activation: the tokens are never projected.

    u_i . Z_j is (u_i W0) . x_j and a constant that softmax drops; c_i is W0 (sum_j p_ij x_j) + b0. Left per token are
    two passes of h vectors over its row; everything else is a product over samples, which the matrix library does.
    """
    projection_weight, projection_bias, query, query_bias, value, value_bias, output_weight, output_bias = weights
    projection = projection_weight.float()
    first = F.linear(reference.pool(hidden, cu_seqlens, "first"), projection, projection_bias)  # Z_0 [B, C]
    scorer = torch.einsum("bk,hkc->bhc", first, query) + query_bias
    keys = (scorer @ projection).contiguous()  # [B, h, H]
    contexts = torch.empty_like(keys)
    _, shape = _native_arguments(hidden, first.shape[0], weights, "identity", mlp_activation)
    _extension.module().attention_pooling_cpu(
        hidden.data_ptr(),
        _extension.DTYPE_CODES[hidden.dtype],
        cu_seqlens.data_ptr(),
        keys.data_ptr(),
        shape,
        contexts.data_ptr(),
    )
    pooled = F.linear(contexts, projection, projection_bias)  # c_i [B, h, C]
    features = reference.ACTIVATIONS[mlp_activation](pooled.flatten(1) @ value + value_bias)
    return F.linear(features, output_weight, output_bias)


def _cuda(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    *weights: Tensor,
    narrow_activation: str = "tanh",
    mlp_activation: str = "tanh",
    history: Tensor | None = None,
    **criterion: Any,
) -> tuple[Tensor, ...]:
    native = _extension.module()
    cu_seqlens, speed, history = library.contiguous(cu_seqlens, speed, history)
    hidden, *alive = library.aligned(hidden, *weights)
    dtype = _extension.DTYPE_CODES[hidden.dtype]
    native_weights, shape = _native_arguments(hidden, speed.shape[0], alive, narrow_activation, mlp_activation)
    if reason := native.exit_head_cuda_unsupported(shape, native_weights, dtype):
        backends.warn_about_fallback("exit_head", reason)
        return reference.exit_head(
            hidden,
            cu_seqlens,
            speed,
            *alive,
            narrow_activation=narrow_activation,
            mlp_activation=mlp_activation,
            history=history,
            **criterion,
        )
    outputs = library.decision_outputs(hidden, speed.shape[0], alive[6].shape[0])
    decision, native_outputs = library.native_decision(speed, history, outputs=outputs, **criterion)
    native.exit_head_cuda(
        hidden.data_ptr(),
        dtype,
        cu_seqlens.data_ptr(),
        native_weights,
        shape,
        decision,
        native_outputs,
        hidden.device.index,
        library.current_stream(hidden.device),
    )
    return outputs


def _triton(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    from fastbert_kernels.triton import exit_head

    return exit_head(*arguments, **options)


IMPLEMENTATIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "cuda": _cuda,
    "triton": _triton,
    "cpu": _cpu,
    "reference": reference.exit_head,
}
library.register(SCHEMA, _kernel, _fake, "CPU", "CUDA")
library.show_triton("exit_head")

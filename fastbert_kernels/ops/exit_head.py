"""`torch.ops.fastbert.exit_head`: the whole exit decision of a layer in one op."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels import _extension, backends, reference
from fastbert_kernels.ops import library

SCHEMA = (
    "exit_head(Tensor hidden, Tensor cu_seqlens, Tensor speed, Tensor projection_weight, Tensor projection_bias, "
    "Tensor query, Tensor query_bias, Tensor value, Tensor value_bias, Tensor output_weight, Tensor output_bias, *, "
    "str backend='auto') -> (Tensor logits, Tensor uncertainty, Tensor keep)"
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
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Pooling, MLP, softmax, normalised entropy and exit decision of every sample of a packed batch.

    With X [n, H] the rows of one sample (FastBERT, section 3.2; only the [CLS] query of its attention is ever used, so
    the products of neighbouring matrices are folded, see `fastbert_kernels.engine.folding`)::

        Z      = tanh(X projection_weight^T + projection_bias)                   [n, C]
        u_i    = Z_0 query_i + query_bias_i                                      [C]     i = 1..h
        c_i    = softmax_j(u_i . Z_j) Z                                          [C]
        t      = tanh([c_1 .. c_h] value + value_bias)                           [C]
        logits = t output_weight^T + output_bias                                 [N]

    Args:
        hidden: [T, H] float32, bfloat16, float16 or float64; T tokens of B samples, no padding.
        cu_seqlens: [B + 1] int32, begins with 0 and ends with T.
        speed: [B] float32, the threshold of each sample.
        projection_weight: [C, H] of the dtype of `hidden`.
        projection_bias: [C]; query: [h, C, C]; query_bias: [h, C]; value: [h * C, C]; value_bias: [C]; output_weight:
            [N, C];
            output_bias: [N], N >= 2; all float32 (float64 when `hidden` is).
        backend: "auto" or a name of `fastbert_kernels.backends.BACKENDS`.

    Returns:
        logits [B, N] and uncertainty [B], float32 (float64 when `hidden` is), and keep [B] bool: True for samples that
        stay, `not (uncertainty < speed)`. A sample without tokens, or with a NaN in its rows, has NaN there and stays;
        its neighbours are not touched.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices do not fit. RuntimeError: a named backend is not there.
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
        backend=backend,
    )


def _check(hidden: Tensor, cu_seqlens: Tensor, speed: Tensor, *weights: Tensor) -> None:
    projection_weight, projection_bias, query, query_bias, value, value_bias, output_weight, output_bias = weights
    if hidden.dim() != 2 or not hidden.is_floating_point():
        raise ValueError(f"hidden must be [T, H] floating point, not {list(hidden.shape)} {hidden.dtype}")
    if query.dim() != 3 or output_weight.dim() != 2:
        raise ValueError(
            f"query must be [h, C, C] and output_weight [N, C], not {list(query.shape)}, {list(output_weight.shape)}"
        )
    batch, hidden_size = speed.shape[0] if speed.dim() == 1 else -1, hidden.shape[1]
    heads, narrow, _ = query.shape
    labels = output_weight.shape[0]
    if labels < 2:
        raise ValueError(f"a classifier needs at least 2 labels, output_weight has {labels}")
    folded = torch.promote_types(hidden.dtype, torch.float32)
    library.check_shape("cu_seqlens", cu_seqlens, (batch + 1,), torch.int32)
    library.check_shape("speed", speed, (batch,), torch.float32)
    library.check_shape("projection_weight", projection_weight, (narrow, hidden_size), hidden.dtype)
    library.check_shape("projection_bias", projection_bias, (narrow,), folded)
    library.check_shape("query", query, (heads, narrow, narrow), folded)
    library.check_shape("query_bias", query_bias, (heads, narrow), folded)
    library.check_shape("value", value, (heads * narrow, narrow), folded)
    library.check_shape("value_bias", value_bias, (narrow,), folded)
    library.check_shape("output_weight", output_weight, (labels, narrow), folded)
    library.check_shape("output_bias", output_bias, (labels,), folded)
    library.check_device(
        hidden.device,
        cu_seqlens=cu_seqlens,
        speed=speed,
        projection_weight=projection_weight,
        query=query,
        value=value,
        output_weight=output_weight,
    )


def _kernel(hidden: Tensor, cu_seqlens: Tensor, speed: Tensor, *weights: Tensor, backend: str = "auto"):
    _check(hidden, cu_seqlens, speed, *weights)
    chosen = backends.resolve(backend, hidden.device)
    if hidden.dtype == torch.float64:
        chosen = "reference"  # no compiled kernel has float64
    return IMPLEMENTATIONS[chosen](hidden, cu_seqlens, speed, *weights)


def _fake(hidden: Tensor, cu_seqlens: Tensor, speed: Tensor, *weights: Tensor, backend: str = "auto"):
    _check(hidden, cu_seqlens, speed, *weights)
    return _outputs(hidden, speed.shape[0], weights[6].shape[0])


def _outputs(hidden: Tensor, batch: int, labels: int) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return (
        hidden.new_empty(batch, labels, dtype=dtype),
        hidden.new_empty(batch, dtype=dtype),
        hidden.new_empty(batch, dtype=torch.bool),
    )


def _native_arguments(hidden: Tensor, speed: Tensor, weights: tuple[Tensor, ...]):
    """The structs of csrc/exit_head.h, and the tensors that must outlive the call."""
    native = _extension.module()
    weights = tuple(weight.contiguous() for weight in weights)
    heads, narrow, _ = weights[2].shape
    shape = native.ExitHeadShape(hidden.shape[0], speed.shape[0], hidden.shape[1], narrow, heads, weights[6].shape[0])
    return native.ExitHeadWeights(*(weight.data_ptr() for weight in weights)), shape, weights


def _cpu(hidden: Tensor, cu_seqlens: Tensor, speed: Tensor, *weights: Tensor):
    # The projection is a plain matrix product, which the tuned library does best; the kernel does all the rest in one
    # pass.
    projected = F.linear(hidden, weights[0], weights[1].to(hidden.dtype)).float().contiguous()
    native_weights, shape, alive = _native_arguments(hidden, speed, weights)
    cu_seqlens, speed = cu_seqlens.contiguous(), speed.contiguous()
    logits, uncertainty, keep = outputs = _outputs(hidden, speed.shape[0], alive[6].shape[0])
    _extension.module().exit_head_cpu(
        projected.data_ptr(),
        cu_seqlens.data_ptr(),
        speed.data_ptr(),
        native_weights,
        shape,
        logits.data_ptr(),
        uncertainty.data_ptr(),
        keep.data_ptr(),
    )
    return outputs


def _cuda(hidden: Tensor, cu_seqlens: Tensor, speed: Tensor, *weights: Tensor):
    native = _extension.module()
    native_weights, shape, alive = _native_arguments(hidden, speed, weights)
    dtype = _extension.DTYPE_CODES[hidden.dtype]
    if native.exit_head_cuda_unsupported(shape, dtype) is not None:
        return reference.exit_head(hidden, cu_seqlens, speed, *weights)
    hidden, cu_seqlens, speed = hidden.contiguous(), cu_seqlens.contiguous(), speed.contiguous()
    logits, uncertainty, keep = outputs = _outputs(hidden, speed.shape[0], alive[6].shape[0])
    native.exit_head_cuda(
        hidden.data_ptr(),
        dtype,
        cu_seqlens.data_ptr(),
        speed.data_ptr(),
        native_weights,
        shape,
        logits.data_ptr(),
        uncertainty.data_ptr(),
        keep.data_ptr(),
        hidden.device.index,
        library.current_stream(hidden.device),
    )
    return outputs


IMPLEMENTATIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "cuda": _cuda,
    "cpu": _cpu,
    "reference": reference.exit_head,
}
library.register(SCHEMA, _kernel, _fake)

"""`torch.ops.fastbert.attentive_head`: the whole exit decision of a layer in one op."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels import _extension, reference
from fastbert_kernels.criteria import check_labels
from fastbert_kernels.exit_heads import AttentiveHeadWeights, HeadInputs
from fastbert_kernels.ops import library, packing
from fastbert_kernels.reference import AttentiveHeadTensors


@library.op()
def attentive_head(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    weights: Sequence[Tensor],
    *,
    narrow_activation: str = "tanh",
    mlp_activation: str = "tanh",
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
        weights: the tensors of `AttentiveHeadTensors`, in that order.
        narrow_activation: "tanh" or "identity".
        mlp_activation: "tanh" or "identity".
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
        ValueError, TypeError: shapes, dtypes, devices or names do not fit, or on a CPU `cu_seqlens` leaves the rows.
            On a GPU, where nobody waits to see it, such a sample is answered like one without tokens.
        RuntimeError: a named backend is not available.
    """
    library.check_head_inputs(hidden, cu_seqlens, speed, history, criterion, parameter)
    library.check_choice("narrow_activation", narrow_activation, "tanh", "identity")
    library.check_choice("mlp_activation", mlp_activation, "tanh", "identity")
    if len(weights) != len(AttentiveHeadTensors._fields):
        raise ValueError(f"weights must be {', '.join(AttentiveHeadTensors._fields)}, not {len(weights)} tensors")
    head = AttentiveHeadTensors(*weights)
    if head.query.dim() != 3 or head.output_weight.dim() != 2:
        shapes = f"{list(head.query.shape)}, {list(head.output_weight.shape)}"
        raise ValueError(f"query must be [h, C, C] and output_weight [N, C], not {shapes}")
    heads, narrow, _ = head.query.shape
    labels = head.output_weight.shape[0]
    check_labels(criterion, labels)
    check, device, dtype = library.check_tensor, hidden.device, hidden.dtype
    precise = torch.promote_types(dtype, torch.float32)
    check("projection_weight", head.projection_weight, device, (narrow, hidden.shape[1]), dtype)
    check("projection_bias", head.projection_bias, device, (narrow,), precise)
    check("query", head.query, device, (heads, narrow, narrow), precise, dtype)
    check("query_bias", head.query_bias, device, (heads, narrow), precise)
    check("value", head.value, device, (heads * narrow, narrow), head.query.dtype)
    check("value_bias", head.value_bias, device, (narrow,), precise)
    check("output_weight", head.output_weight, device, (labels, narrow), precise)
    check("output_bias", head.output_bias, device, (labels,), precise)
    return library.decision_results(hidden, speed.shape[0], labels)


def _cpu(results: tuple[Tensor, ...], inputs: HeadInputs, head: AttentiveHeadWeights) -> None:
    native, given = _extension.module(), head.tensors
    tensors = given._replace(query=given.query.float(), value=given.value.float())
    head = dataclasses.replace(head, tensors=tensors)
    if head.narrow_activation == "identity":
        logits = _logits_without_projecting(inputs.hidden, inputs.cu_seqlens, head)
        native.decide(logits, inputs.speed, results, **inputs.decision)
    else:
        packed = pack_head(head, inputs.hidden.dtype)
        native.attentive_head_cpu(*inputs[:3], packed, results, **inputs.decision)


def pack_head(head: AttentiveHeadWeights, rows: torch.dtype, operand: str | None = None) -> Any:
    """Return the head as the compiled CPU kernels read it, for hidden states of dtype `rows`.

    Args:
        head: its tensors contiguous, query and value in float32, the narrow activation "tanh".
        rows: float32, bfloat16 or float16.
        operand: what the projection is multiplied in, "float32" or what the processor has for such rows; that one where
            it is None.
    """
    tensors = head.tensors
    operand = operand or packing.product_operand(rows, tensors.projection_weight.shape[1])
    projection = packing.packed_matrix(tensors.projection_weight, tensors.projection_bias, operand)
    return _extension.module().AttentiveHead(projection, tensors, head.narrow_activation, head.mlp_activation)


def _logits_without_projecting(hidden: Tensor, cu_seqlens: Tensor, head: AttentiveHeadWeights) -> Tensor:
    """Return the logits of a head with the identity as narrow activation, whose tokens need not be projected.

    u_i . Z_j is (u_i W0) . x_j and a constant that softmax drops; c_i is W0 (sum_j p_ij x_j) + b0. Left per token are
    two passes of h vectors over its row; everything else is a product over samples, which the matrix library does.
    """
    native, tensors = _extension.module(), head.tensors
    projection, projection_bias = tensors.projection_weight.float(), tensors.projection_bias
    first_rows = hidden.new_empty(cu_seqlens.shape[0] - 1, hidden.shape[1], dtype=torch.float32)
    native.pool(hidden, cu_seqlens, "first", first_rows)
    first = F.linear(first_rows, projection, projection_bias)  # Z_0 [B, C]
    scorer = torch.einsum("bk,hkc->bhc", first, tensors.query) + tensors.query_bias
    keys = (scorer @ projection).contiguous()  # [B, h, H]
    contexts = torch.empty_like(keys)
    native.attention_pooling(hidden, cu_seqlens, keys, contexts)
    pooled = F.linear(contexts, projection, projection_bias)  # c_i [B, h, C]
    features = reference.ACTIVATIONS[head.mlp_activation](pooled.flatten(1) @ tensors.value + tensors.value_bias)
    return F.linear(features, tensors.output_weight, tensors.output_bias)


def cuda_attentive_head(head: AttentiveHeadWeights) -> Any:
    """Return the head as the compiled CUDA kernels read it.

    Args:
        head: its tensors contiguous, on a GPU, at addresses that 16 divides. What is written to them later is seen.

    Raises:
        Unsupported: the kernels do not cover it.
    """
    return _extension.module().CudaAttentiveHead(head.tensors, head.narrow_activation, head.mlp_activation)


def _cuda(results: tuple[Tensor, ...], inputs: HeadInputs, head: AttentiveHeadWeights) -> None:
    hidden, *tensors = library.aligned(inputs.hidden, *head.tensors)
    native = cuda_attentive_head(dataclasses.replace(head, tensors=AttentiveHeadTensors(*tensors)))
    native.decide(hidden, inputs.cu_seqlens, inputs.speed, results, **inputs.decision)


library.implement(
    attentive_head,
    arguments=library.head_arguments(
        lambda weights, **activations: AttentiveHeadWeights(AttentiveHeadTensors(*weights), **activations)
    ),
    cuda=_cuda,
    triton=library.triton("attentive_head"),
    cpu=_cpu,
    reference=reference.attentive_head,
)

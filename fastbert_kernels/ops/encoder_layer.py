"""`torch.ops.fastbert.encoder_layer`: an encoder layer of the BERT family on a packed batch, on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import _extension
from fastbert_kernels.layer_norm import check_layer_norm
from fastbert_kernels.ops import library, packing

ACTIVATIONS = ("gelu", "relu")
DTYPES = (torch.float32, torch.bfloat16)


@library.op(devices=("CPU",))
def encoder_layer(
    hidden: Tensor,
    cu_seqlens: Tensor,
    qkv: Tensor,
    attention_output: Tensor,
    intermediate: Tensor,
    output: Tensor,
    norms: Tensor,
    *,
    num_attention_heads: int,
    intermediate_size: int,
    layer_norm_eps: float,
    activation: str = "gelu",
    operand: str = "float32",
    layer_norm: str = "standard",
) -> Tensor:
    """Self-attention and feed-forward block, each with residual and LayerNorm behind it (Devlin et al. 2019).

    Every sample attends to its own rows only. What follows a product is done to its results while they are in the
    cache; there is no padding.

    Args:
        hidden: [T, H] float32 or bfloat16, on a CPU; H a multiple of `num_attention_heads`.
        cu_seqlens: [B + 1] int32, begins with 0 and ends with T.
        qkv, attention_output, intermediate, output: Linear layers [3H, H] (query, key and value one after another),
            [H, H], [I, H] and [H, I], packed by `packing.pack_linear` for `operand`.
        norms: [4, H] float32: weight and bias of the LayerNorm behind attention, and of the last one.
        activation: "gelu" (by the error function) or "relu".
        operand: "float32", "bfloat16" (for bfloat16 rows) or "int8" (rows are quantised as they come, each with its own
            scale).
        layer_norm: kind of both, "standard" or "unbiased" (`fastbert_kernels.layer_norm` has the formulas).

    Returns:
        [T, H] of the dtype of `hidden`. A row that is not finite makes NaN of its own sample only.

    Raises:
        ValueError, TypeError: shapes, dtypes or names do not fit. ImportError: the compiled module is missing.
    """
    if hidden.dim() != 2 or hidden.dtype not in DTYPES:
        raise ValueError(f"hidden must be [T, H] float32 or bfloat16, not {list(hidden.shape)} {hidden.dtype}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] == 0:
        raise ValueError(f"cu_seqlens must be [B + 1], not {list(cu_seqlens.shape)}")
    check, device, width = library.check_tensor, hidden.device, hidden.shape[1]
    check("cu_seqlens", cu_seqlens, device, tuple(cu_seqlens.shape), torch.int32)
    packed = {"qkv": qkv, "attention_output": attention_output, "intermediate": intermediate, "output": output}
    for name, memory in packed.items():  # C++ knows how long each has to be
        check(name, memory, device, (memory.numel(),), torch.uint8)
    if num_attention_heads < 1 or width % num_attention_heads:
        raise ValueError(f"{num_attention_heads} attention heads do not divide the hidden size {width}")
    check("norms", norms, device, (4, width), torch.float32)
    check_layer_norm(layer_norm, width)
    library.check_choice("activation", activation, *ACTIVATIONS)
    library.check_choice("operand", operand, *packing.OPERANDS)
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


def _cpu(
    result: Tensor,
    hidden: Tensor,
    cu_seqlens: Tensor,
    *tensors: Tensor,
    num_attention_heads: int,
    intermediate_size: int,
    layer_norm_eps: float,
    activation: str,
    operand: str,
    layer_norm: str,
) -> None:
    if operand == "bfloat16" and packing.product_operand(hidden.dtype, hidden.shape[1]) != operand:
        raise ValueError(
            f"this processor multiplies {hidden.dtype} rows of {hidden.shape[1]} in float32; pack for that"
        )
    weights = native_weights(
        tensors,
        hidden.shape[1],
        num_attention_heads,
        intermediate_size,
        layer_norm_eps,
        activation,
        operand,
        layer_norm,
    )
    _extension.module().encoder_layer(hidden, cu_seqlens, weights, result)


def native_weights(
    tensors: tuple[Tensor, ...],
    hidden_size: int,
    num_attention_heads: int,
    intermediate_size: int,
    layer_norm_eps: float,
    activation: str,
    operand: str,
    layer_norm: str,
) -> Any:
    """Return the layer as the compiled kernels take it; it keeps `tensors`: qkv, attention_output, intermediate, output
    and norms."""
    *packed, norms = tensors
    shapes = {
        "qkv": (3 * hidden_size, hidden_size),
        "attention_output": (hidden_size, hidden_size),
        "intermediate": (intermediate_size, hidden_size),
        "output": (hidden_size, intermediate_size),
    }
    native = _extension.module()
    matrices = []
    for memory, (name, shape) in zip(packed, shapes.items(), strict=True):
        library.check_tensor(name, memory, norms.device, (packing.packed_bytes(*shape, operand),), torch.uint8)
        matrices.append(native.PackedMatrix(memory, *shape, operand))
    return native.EncoderLayer(*matrices, norms, layer_norm_eps, layer_norm, num_attention_heads, activation)


library.implement(encoder_layer, cpu=_cpu)

"""Linear layers laid out for the CPU's product kernels (csrc/packed_matrix.h)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import _extension

OPERANDS = ("float32", "bfloat16", "int8")


def product_operand(rows: torch.dtype, depth: int) -> str:
    """Return what a CPU multiplies rows of this dtype and length in.

    Their own dtype where the processor has instructions for it, else "float32".
    """
    return _extension.module().product_operand(str(rows).removeprefix("torch."), depth)


def pack_linear(weight: Tensor, bias: Tensor, operand: str) -> Tensor:
    """Pack a Linear layer on a CPU.

    Args:
        weight: [N, K] floating point.
        bias: [N].
        operand: "float32", "bfloat16" or "int8" (rounded per output channel, symmetrically).

    Returns:
        uint8, opaque; good for this process only, whose instruction set its layout follows.
    """
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    outputs, depth = weight.shape
    memory = torch.empty(packed_bytes(outputs, depth, operand), dtype=torch.uint8)
    _extension.module().pack_matrix(weight, bias, operand, memory)
    return memory


def packed_bytes(outputs: int, depth: int, operand: str) -> int:
    """Return the length of what `pack_linear` returns."""
    return _extension.module().packed_matrix_bytes(outputs, depth, operand)


def packed_matrix(weight: Tensor, bias: Tensor, operand: str) -> Any:
    """Return a Linear layer as the compiled kernels read it (csrc/packed_matrix.h); arguments as of `pack_linear`."""
    return _extension.module().PackedMatrix(pack_linear(weight, bias, operand), *weight.shape, operand)

"""Linear layers laid out for the CPU's product kernels (csrc/packed_matrix.h)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import _extension

OPERANDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def product_operand(rows: torch.dtype, depth: int) -> str:
    """What a CPU multiplies rows of this dtype and length in: their own dtype where the processor has instructions for
    it, else "float32"."""
    code = _extension.module().product_operand(_extension.DTYPE_CODES[rows], depth)
    return next(name for name, dtype in OPERANDS.items() if _extension.DTYPE_CODES[dtype] == code)


def pack_linear(weight: Tensor, bias: Tensor, operand: str) -> Tensor:
    """Packs a Linear layer on a CPU.

    Args:
        weight: [N, K] floating point. bias: [N]. operand: "float32", "bfloat16" or "int8" (rounded per output channel,
            symmetrically).

    Returns:
        uint8, opaque; good for this process only, whose instruction set its layout follows.
    """
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    outputs, depth = weight.shape
    memory = torch.empty(packed_bytes(outputs, depth, operand), dtype=torch.uint8)
    matrix = native_matrix(memory, outputs, depth, operand)
    _extension.module().pack_matrix(weight.data_ptr(), bias.data_ptr(), matrix, memory.data_ptr())
    return memory


def packed_bytes(outputs: int, depth: int, operand: str) -> int:
    native = _extension.module()
    return native.packed_matrix_bytes(native.PackedMatrix(0, outputs, depth, _extension.DTYPE_CODES[OPERANDS[operand]]))


def native_matrix(memory: Tensor, outputs: int, depth: int, operand: str) -> Any:
    """The struct of csrc/packed_matrix.h; `memory` must outlive its use."""
    return _extension.module().PackedMatrix(
        memory.data_ptr(), outputs, depth, _extension.DTYPE_CODES[OPERANDS[operand]]
    )

"""Linear layers laid out for the CPU's product kernels (csrc/packed_matrix.h)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import _extension


def product_operand(rows: torch.dtype, depth: int) -> str:
    """Return what a CPU multiplies rows of this dtype and length in.

    Their own dtype where the processor has instructions for it, else "float32".
    """
    return _extension.module().product_operand(str(rows).removeprefix("torch."), depth)


def packed_matrix(weight: Tensor, bias: Tensor, operand: str) -> Any:
    """Return a Linear layer as the compiled kernels read it (csrc/packed_matrix.h).

    It is good for this process only, whose instruction set its layout follows.

    Args:
        weight: [N, K] floating point, on a CPU.
        bias: [N].
        operand: "float32", "bfloat16" or "int8" (rounded per output channel, symmetrically).
    """
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    native, (outputs, depth) = _extension.module(), weight.shape
    memory = torch.empty(native.packed_matrix_bytes(outputs, depth, operand), dtype=torch.uint8)
    native.pack_matrix(weight, bias, operand, memory)
    return native.PackedMatrix(memory, outputs, depth, operand)

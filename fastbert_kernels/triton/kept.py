"""Launches of Triton kernels without what Triton does in front of each: binding arguments, and asking which variant is
meant."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from triton.compiler import CompiledKernel


class KeptKernel:
    """A Triton kernel and the variants of it that were launched.

    Triton compiles a variant for the dtypes of tensors, whether 16 divides their addresses, and the constants. One that
    was launched before for the same, with all addresses divisible, is launched as it is; everything else goes Triton's
    own way. The same goes for the interpreter, and for a compiler that is to see the kernel.
    """

    def __init__(self, kernel: Any) -> None:
        """
        Args:
            kernel: `triton.jit`, whose parameters are tensors, then numbers, the first of which is an integer that is
                not specialized and the others floats, then constants.
        """
        self._kernel = kernel
        self._variants: dict[Hashable, CompiledKernel] = {}

    def launch(
        self,
        blocks: int,
        tensors: Sequence[Tensor],
        numbers: tuple[int | float, ...],
        constants: dict[str, Any],
        num_warps: int,
    ) -> None:
        """Launch so many blocks on the current device, that of the tensors.

        Args:
            tensors: contiguous.
            constants: in the order of the kernel's parameters.
        """
        if torch.compiler.is_compiling():
            self._kernel[(blocks,)](*tensors, *numbers, **constants, num_warps=num_warps)
            return
        addresses = 0
        for tensor in tensors:
            addresses |= tensor.data_ptr()
        is_usual = addresses % 16 == 0 and numbers[0] < 2**31
        key = (tensors[0].device, num_warps, *[tensor.dtype for tensor in tensors], *constants.values())
        if is_usual and (variant := self._variants.get(key)) is not None:
            variant[(blocks, 1, 1)](*tensors, *numbers, *constants.values())
            return
        launched = self._kernel[(blocks,)](*tensors, *numbers, **constants, num_warps=num_warps)
        if is_usual and isinstance(launched, CompiledKernel):
            self._variants[key] = launched

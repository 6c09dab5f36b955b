"""Launches of element-wise Triton kernels without what Triton does in front of each in Python: what was launched before
for tensors of the same kind is launched again by one native call."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel

from fastbert_kernels import _extension
from fastbert_kernels.triton.configs import TileConfig

ALIGNMENT = 16  # Triton compiles a variant for addresses that it divides
MOST_SHARED_BYTES = 48 * 1024  # a launch with more is another on some GPUs

_TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float8_e4m3fn: "*fp8e4nv",
}
# What a launch is without attributes and without memory for the kernel, in the metadata of the compiled kernel.
_PLAIN = {
    "num_ctas": 1,
    "global_scratch_size": 0,
    "profile_scratch_size": 0,
    "launch_cooperative_grid": False,
    "launch_pdl": False,
}


class KeptKernel:
    """A Triton kernel on tiles of rows, and the launches of it that can be done again.

    The native call looks at everything by which Triton would have taken another variant: dtypes, device and columns
    of the tensors, whether 16 divides their addresses, whether the rows can be counted in 32 bits. Where one differs,
    where somebody looks on (a profiler's hooks), in another CUDA context, under the interpreter, for a compiler that is
    to see the kernel, and where the compiled kernel is not of the form that is known, the launch goes Triton's own way.
    Switches of Triton by which it compiles another way count when a variant is first launched.
    """

    def __init__(self, kernel: Any) -> None:
        """
        Args:
            kernel: `triton.jit`, whose parameters are tensors, the number of rows, which is not specialised, numbers in
                floating point and constants.
        """
        self._kernel = kernel
        self._kept: dict[Hashable, list[Any]] = {}
        self._asked: dict[int, CompiledKernel] = {}  # whether they can be kept

    def launch_again(self, which: Hashable, tensors: tuple[Tensor, ...], numbers: tuple[float, ...]) -> bool:
        """Launch as before, and return whether that was possible; if not, nothing has happened.

        Args:
            which: the constants that do not follow from the tensors' kinds.
            tensors: as of `launch`, of any kind.
            numbers: as of `launch`.
        """
        if torch.compiler.is_compiling() or (launches := self._kept.get(which)) is None:
            return False
        if _is_watched() or self._kernel.pre_run_hooks:
            return False
        for kept in launches:  # noqa: SIM110  (a generator costs half as much as the launch)
            if kept.launch(tensors, numbers):
                return True
        return False

    def launch(
        self,
        which: Hashable,
        tensors: tuple[Tensor, ...],
        numbers: tuple[float, ...],
        constants: dict[str, Any],
        config: TileConfig,
    ) -> None:
        """Launch by Triton on the current device, that of the tensors, and keep how it was done.

        Args:
            which: as of `launch_again`.
            tensors: contiguous; the first is [T, columns], T above 0, the others [T, any number] or [any number].
            numbers: behind the number of rows.
            constants: in the order of the kernel's parameters, NUM_COLUMNS among them, without the tile.
            config: the tile, BLOCK_ROWS and BLOCK_COLUMNS of the kernel.
        """
        rows = tensors[0].shape[0]
        across = -(-constants["NUM_COLUMNS"] // config.block_columns)
        tile = {"BLOCK_ROWS": config.block_rows, "BLOCK_COLUMNS": config.block_columns}
        launched = self._kernel[(-(-rows // config.block_rows) * across,)](
            *tensors, rows, *numbers, **constants, **tile, num_warps=config.num_warps
        )
        if torch.compiler.is_compiling() or not isinstance(launched, CompiledKernel) or id(launched) in self._asked:
            return
        self._asked[id(launched)] = launched
        native, _ = _extension.load()
        launch = plain_launch(launched, tensors, len(numbers))
        usual = all(tensor.dim() in (1, 2) and tensor.is_contiguous() for tensor in tensors)
        if native is not None and launch is not None and usual:
            kept = native.KeptLaunch(launched, *launch, config.block_rows, across, tensors)
            self._kept.setdefault(which, []).append(kept)


def plain_launch(compiled: CompiledKernel, tensors: Sequence[Tensor], numbers: int) -> tuple[int, int, int] | None:
    """Return how to launch a compiled kernel, or None where its form is not the one that is known.

    Known are kernels that take an address for each tensor, the number of rows in 32 bits, so many numbers in float32,
    and two addresses of scratch memory that they do not use, as Triton 3.6 and 3.9 make them. That is read from what
    was compiled, the signature, the assumptions and the PTX, so that another Triton may make the same.

    Args:
        compiled: after its launch.
        tensors: for which it was launched.
        numbers: how many.

    Returns:
        The driver's handle of the function, the threads of a block and its bytes of shared memory.
    """
    metadata, source = compiled.metadata, compiled.src
    types = [kind for kind in source.signature.values() if kind != "constexpr"]
    assumed = {place: list(map(list, found)) for place, found in source.attrs.items() if found}
    entry = re.search(rf"\.entry {re.escape(metadata.name)}\((.*?)\)\s*\.reqntid (\d+)", compiled.asm["ptx"], re.DOTALL)
    threads = 32 * metadata.num_warps
    if (
        types != [*(_TYPES.get(tensor.dtype) for tensor in tensors), "i32", *["fp32"] * numbers]
        or assumed != {(place,): [["tt.divisibility", ALIGNMENT]] for place in range(len(tensors))}
        or entry is None
        or re.findall(r"\.param \.[a-z](\d+)", entry[1]) != ["64"] * len(tensors) + ["32"] * (1 + numbers) + ["64"] * 2
        or int(entry[2]) != threads
        or any(getattr(metadata, name, None) != value for name, value in _PLAIN.items())
        or metadata.shared > MOST_SHARED_BYTES
        or not isinstance(compiled.function, int)
    ):
        return None
    return compiled.function, threads, metadata.shared


def _is_watched() -> bool:
    """Return whether somebody is told of Triton's launches."""
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))

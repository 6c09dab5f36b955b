"""The Triton kernels as their own launchers launch them, compiled ahead of time to PTX, in the interpreter."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from ptx_interpreter import Finding, GlobalMemory, Machine, Module
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CACHE = Path(__file__).resolve().parents[2] / "build/ptx/triton"
ARCHITECTURE = 80
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.bool: "*i1",
}
FORMATS = {8: "<Q", 4: "<i"}


class Launches:
    """Runs launches one after the other; `wrap` is what the launchers of fastbert_kernels.triton take."""

    def __init__(self, inputs: Sequence[Tensor], written: Sequence[Tensor] = (), seed: int | None = None) -> None:
        """`inputs` may not be written to; `written` may, and have values; nobody has written the other tensors."""
        self.findings: list[Finding] = []
        self._memory = GlobalMemory()
        self._seed = seed
        self._addresses: dict[int, int] = {}
        self._outputs: dict[str, Tensor] = {}
        for tensor in inputs:
            self._place(tensor, is_input=True)
        for tensor in written:
            self._outputs[self._place(tensor, is_input=False)] = tensor

    def wrap(self, kernel: Any) -> _Wrapped:
        return _Wrapped(self, kernel)

    def unwritten(self, tensor: Tensor) -> int:
        """Return how many bytes nobody wrote."""
        return self._memory.unwritten(_name(tensor)) if tensor.numel() else 0

    def run(self, kernel: Any, grid: tuple[int, ...], values: dict[str, Any], options: dict[str, int]) -> None:
        ready = {name: self._address(value) if isinstance(value, Tensor) else value for name, value in values.items()}
        compiled, names = _compile(kernel, values, ready, options)
        parsed = Module(compiled.asm["ptx"]).kernel(compiled.metadata.name)
        parameters = bytearray()
        passed = [ready[name] for name in names]
        passed += [0] * (len(parsed.parameters) - len(passed))  # scratch that these kernels do not use
        for value, begin, size in zip(passed, parsed.parameters.values(), parsed.parameter_sizes, strict=True):
            parameters += bytes(begin - len(parameters))
            parameters += struct.pack("<f" if isinstance(value, float) else FORMATS[size], value)
        machine = Machine(parsed, 32 * options["num_warps"], copies_may_round=True)
        self.findings += machine.run(self._memory, bytes(parameters), grid, compiled.metadata.shared, self._seed)
        for name, tensor in self._outputs.items():
            tensor.view(torch.uint8).flatten().copy_(self._memory.tensor(name).view(torch.uint8).flatten())

    def _address(self, tensor: Tensor) -> int:
        if tensor.data_ptr() not in self._addresses:
            name = _name(tensor)
            self._addresses[tensor.data_ptr()] = self._memory.allocate(name, tensor.shape, tensor.dtype)
            self._outputs[name] = tensor
        return self._addresses[tensor.data_ptr()]

    def _place(self, tensor: Tensor, is_input: bool) -> str:
        name = _name(tensor)
        self._addresses[tensor.data_ptr()] = self._memory.place(name, tensor, is_input)
        return name


class _Wrapped:
    def __init__(self, launches: Launches, kernel: Any) -> None:
        self._launches, self._kernel = launches, kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, num_warps: int, num_stages: int = 3, **constants: Any) -> None:
            values = dict(zip(self._kernel.arg_names, arguments, strict=False)) | constants
            options = {"num_warps": num_warps, "num_stages": num_stages}
            self._launches.run(self._kernel, grid, values, options)

        return launch


def _name(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} at {tensor.data_ptr():#x}"


def _compile(
    kernel: Any, values: dict[str, Any], ready: dict[str, Any], options: dict[str, int]
) -> tuple[Any, list[str]]:
    """Compile as a launch would, which makes a constant of 1 and relies on multiples of 16; returns what became of the
    kernel and the names of the parameters."""
    signature, constants, attributes = {}, {}, {}
    for number, parameter in enumerate(kernel.params):
        name, value = parameter.name, values[parameter.name]
        is_free = not parameter.do_not_specialize
        if parameter.is_constexpr or (type(value) is int and value == 1 and is_free):
            signature[name], constants[name] = "constexpr", value
            continue
        if isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if is_free and not isinstance(value, float) and ready[name] % 16 == 0:
            attributes[(number,)] = [["tt.divisibility", 16]]
    with knobs.cache.scope():
        knobs.cache.dir = str(CACHE)
        compiled = triton.compile(
            ASTSource(kernel, signature, constants, attributes),
            target=GPUTarget("cuda", ARCHITECTURE, 32),
            options=options,
        )
    return compiled, [name for name, kind in signature.items() if kind != "constexpr"]

"""Moves between registers and conversions between types."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx_interpreter.formats import FORMATS, INTEGERS, bf16_to_f32, f32_to_bf16
from ptx_interpreter.instructions.operation import Execute, Operation, build_operation
from ptx_interpreter.registers import Active
from ptx_interpreter.syntax import Instruction, Vector

if TYPE_CHECKING:
    from ptx_interpreter.machine import Machine

Array = np.ndarray


def build(machine: Machine, instruction: Instruction) -> Execute | None:
    operation = TABLE.get(instruction.opcode)
    if operation is None:
        return None
    if instruction.opcode.startswith("mov."):
        target, source = instruction.operands
        if isinstance(target, Vector):
            return _build_unpack(machine, target, source, operation.result)
        if isinstance(source, Vector):
            return _build_pack(machine, target, source, operation.result)
    return build_operation(machine, instruction, operation)


def _build_unpack(machine: Machine, target: Vector, source, kind: str) -> Execute:
    """{a, b, ..} = source, the low bits first."""
    width = 8 * FORMATS[kind].size // len(target.parts)
    read = machine.registers.read(source, kind)
    writes = [machine.registers.write(part, f"b{width}") for part in target.parts]
    narrow = FORMATS[f"b{width}"].dtype

    def unpack(active: Active) -> None:
        value = read()
        parts = [(value >> value.dtype.type(width * i)).astype(narrow) for i in range(len(writes))]
        for write, part in zip(writes, parts, strict=True):
            write(part, active)

    return unpack


def _build_pack(machine: Machine, target, source: Vector, kind: str) -> Execute:
    width = 8 * FORMATS[kind].size // len(source.parts)
    reads = [machine.registers.read(part, f"b{width}") for part in source.parts]
    write = machine.registers.write(target, kind)
    wide = FORMATS[kind].dtype.type

    def pack(active: Active) -> None:
        value = wide(0)
        for i, read in enumerate(reads):
            value = value | read().astype(wide) << wide(width * i)
        write(value, active)

    return pack


def _same(a: Array) -> Array:
    return a


def _to_integer(kind: str) -> Callable[[Array], Array]:
    dtype = FORMATS[kind].dtype
    return lambda a: np.asarray(a).astype(dtype)


def _table() -> dict[str, Operation]:
    table = {}
    for kind in (*INTEGERS, "b16", "b32", "b64", "f32", "pred"):
        table[f"mov.{kind}"] = Operation(kind, (kind,), _same)
    table["cvta.to.global.u64"] = Operation("u64", ("u64",), _same)
    integers = (*INTEGERS, "s8", "u8")
    for to in integers:
        for source in integers:
            table[f"cvt.{to}.{source}"] = Operation(to, (source,), _to_integer(to))
    for source in integers:
        table[f"cvt.rn.f32.{source}"] = Operation("f32", (source,), lambda a: np.asarray(a).astype(np.float32))
    table["cvt.f32.f16"] = Operation("f32", ("f16",), lambda a: np.asarray(a).astype(np.float32))
    table["cvt.f32.bf16"] = Operation("f32", ("bf16",), bf16_to_f32)
    table["cvt.rn.bf16.f32"] = Operation("bf16", ("f32",), f32_to_bf16)
    table["cvt.rn.f16.f32"] = Operation("f16", ("f32",), lambda a: np.asarray(a).astype(np.float16))
    table["cvt.sat.f32.f32"] = Operation("f32", ("f32",), lambda a: np.where(np.isnan(a), 0, np.clip(a, 0, 1)))
    # Of two floats the first becomes the upper half.
    table["cvt.rn.bf16x2.f32"] = Operation("b32", ("f32", "f32"), lambda a, b: _pair(f32_to_bf16(a), f32_to_bf16(b)))
    table["cvt.rn.f16x2.f32"] = Operation(
        "b32",
        ("f32", "f32"),
        lambda a, b: _pair(*(np.asarray(x).astype(np.float16).view(np.uint16) for x in (a, b))),
    )
    return table


def _pair(upper: Array, lower: Array) -> Array:
    return upper.astype(np.uint32) << np.uint32(16) | lower


TABLE = _table()

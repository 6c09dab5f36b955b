"""Loads, stores and asynchronous copies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx_interpreter.checked_memory import CheckedMemory
from ptx_interpreter.formats import FORMATS
from ptx_interpreter.global_memory import BASE
from ptx_interpreter.instructions.operation import Execute
from ptx_interpreter.registers import Active
from ptx_interpreter.syntax import Address, Immediate, Instruction, Operand, Refused, Vector

if TYPE_CHECKING:
    from ptx_interpreter.machine import Machine

ACCESS = re.compile(r"(ld|st)\.(param|global|shared)(?:::cta)?(\.nc)?(?:\.v([24]))?\.([a-z]+\d+)")
COPY = re.compile(r"cp\.async\.c[ag]\.shared\.global(?:\.L2::128B)?")
Begins = Callable[[Active], np.ndarray]  # of the active threads, where their bytes begin


def build(machine: Machine, instruction: Instruction) -> Execute | None:
    opcode, operands = instruction.opcode, instruction.operands
    if match := ACCESS.fullmatch(opcode):
        direction, space, read_only, parts, kind = match.groups()
        place, values = operands if direction == "st" else reversed(operands)
        registers = values.parts if isinstance(values, Vector) else (values,)
        if len(registers) != int(parts or 1):
            raise Refused(f"line {instruction.line}: {instruction.text}")
        if direction == "st":
            return _build_store(machine, space, place, registers, kind)
        if space == "param":
            return _build_parameter_load(machine, place, registers, kind)
        load = _build_load(machine, space, place, registers, kind)
        return _checked_read_only(machine, place, load) if read_only else load
    if COPY.fullmatch(opcode):
        return _build_copy(machine, *operands)
    if opcode == "cp.async.commit_group":
        return lambda active: machine.shared.close_group(active.threads)
    if opcode == "cp.async.wait_group":
        (pending,) = operands
        assert isinstance(pending, Immediate)
        return lambda active: machine.shared.wait(machine, active.mask, pending.bits)
    return None


def begins_in(machine: Machine, space: str, place: Operand) -> Begins:
    """Return a function of where an address lies in its memory, an int64 a thread."""
    assert isinstance(place, Address)
    read = machine.registers.read(place.base, "u32" if space == "shared" else "u64")
    offset = np.int64(place.offset - (BASE if space == "global" else 0))

    def begins(active: Active) -> np.ndarray:
        addresses = read()
        if addresses.ndim == 0:
            return np.full(active.threads.size, addresses, np.int64) + offset
        return (addresses if active.is_full else addresses[active.threads]).astype(np.int64) + offset

    return begins


def memory_of(machine: Machine, space: str) -> CheckedMemory:
    return machine.shared if space == "shared" else machine.memory


def _build_load(machine: Machine, space: str, place: Operand, registers: tuple[Operand, ...], kind: str) -> Execute:
    begins = begins_in(machine, space, place)
    size, dtype = FORMATS[kind].size * len(registers), FORMATS[kind].dtype
    writes = [machine.registers.scatter(register, kind) for register in registers]

    def load(active: Active) -> None:
        data = memory_of(machine, space).load(machine, begins(active), size, active.threads)
        values = data.view(dtype)
        for i, write in enumerate(writes):
            write(values[:, i], active)

    return load


def _checked_read_only(machine: Machine, place: Operand, load: Execute) -> Execute:
    begins = begins_in(machine, "global", place)

    def checked_load(active: Active) -> None:
        chosen = begins(active)
        load(active)
        machine.memory.check_read_only(machine, chosen)

    return checked_load


def _build_store(machine: Machine, space: str, place: Operand, registers: tuple[Operand, ...], kind: str) -> Execute:
    begins = begins_in(machine, space, place)
    dtype = FORMATS[kind].dtype
    reads = [machine.registers.read(register, kind) for register in registers]

    def store(active: Active) -> None:
        values = np.empty((active.threads.size, len(reads)), dtype)
        for i, read in enumerate(reads):
            value = read()
            values[:, i] = value[active.threads] if value.ndim else value
        memory_of(machine, space).store(machine, begins(active), values.view(np.uint8), active.threads)

    return store


def _build_parameter_load(machine: Machine, place: Operand, registers: tuple[Operand, ...], kind: str) -> Execute:
    begins = begins_in(machine, "param", place)
    size, dtype = FORMATS[kind].size * len(registers), FORMATS[kind].dtype
    writes = [machine.registers.scatter(register, kind) for register in registers]

    def load(active: Active) -> None:
        values = machine.parameters[begins(active)[:, None] + np.arange(size)].view(dtype)
        for i, write in enumerate(writes):
            write(values[:, i], active)

    return load


def _build_copy(machine: Machine, target: Operand, source: Operand, size: Operand, *taken: Operand) -> Execute:
    """`taken` of the bytes are read, 0 or all in these kernels; the rest becomes zero."""
    assert isinstance(size, Immediate)
    targets, sources = begins_in(machine, "shared", target), begins_in(machine, "global", source)
    read_taken = machine.registers.read(taken[0] if taken else size, "u32")

    def copy(active: Active) -> None:
        threads = active.threads
        data = np.zeros((threads.size, size.bits), np.uint8)
        full = np.broadcast_to(read_taken(), active.mask.shape)[threads]
        if ((full != 0) & (full != size.bits)).any():
            raise Refused("a cp.async that reads a part of its bytes")
        chosen = full > 0
        if chosen.any():
            begins = sources(active)[chosen]
            data[chosen] = machine.memory.load(machine, begins, size.bits, threads[chosen])
        machine.shared.start_copies(machine, targets(active), data, threads)

    return copy

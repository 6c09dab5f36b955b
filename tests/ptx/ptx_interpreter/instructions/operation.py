"""Instructions that compute one register from others, thread by thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ptx_interpreter.registers import Active
from ptx_interpreter.syntax import Instruction, Refused

if TYPE_CHECKING:
    from ptx_interpreter.machine import Machine

Execute = Callable[[Active], None]


class Operation(NamedTuple):
    result: str
    operands: tuple[str, ...]
    compute: Callable[..., np.ndarray]


def build_operation(machine: Machine, instruction: Instruction, operation: Operation) -> Execute:
    target, *sources = instruction.operands
    if len(sources) != len(operation.operands):
        raise Refused(f"line {instruction.line}: {instruction.text}")
    write = machine.registers.write(target, operation.result)
    reads = [machine.registers.read(source, kind) for source, kind in zip(sources, operation.operands, strict=True)]
    compute = operation.compute
    if len(reads) == 1:
        (a,) = reads
        return lambda active: write(compute(a()), active)
    if len(reads) == 2:
        a, b = reads
        return lambda active: write(compute(a(), b()), active)
    if len(reads) == 3:
        a, b, c = reads
        return lambda active: write(compute(a(), b(), c()), active)
    return lambda active: write(compute(*(read() for read in reads)), active)

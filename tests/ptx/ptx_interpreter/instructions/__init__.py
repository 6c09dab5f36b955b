"""The instructions, by family. Each has a builder: from an instruction to the function that executes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptx_interpreter.instructions import arithmetic, conversions, matrices, transfers, warps
from ptx_interpreter.syntax import Instruction, Refused

if TYPE_CHECKING:
    from ptx_interpreter.instructions.operation import Execute
    from ptx_interpreter.machine import Machine

FAMILIES = (arithmetic, conversions, transfers, warps, matrices)


def build(machine: Machine, instruction: Instruction) -> Execute:
    for family in FAMILIES:
        execute = family.build(machine, instruction)
        if execute is not None:
            return execute
    raise Refused(f"line {instruction.line}: the interpreter does not know {instruction.text}")

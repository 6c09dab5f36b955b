"""What the lanes of a warp do together. The machine sees to it that all of them are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx_interpreter.instructions.operation import Execute
from ptx_interpreter.registers import Active
from ptx_interpreter.syntax import Instruction, Operand, Pair, Refused

if TYPE_CHECKING:
    from ptx_interpreter.machine import Machine

LANES = np.arange(32)
ALL_LANES = 0xFFFFFFFF
# The lane that each lane reads, from the operand b; the second is the last lane (of `up` the first) that it may read.
SHUFFLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "shfl.sync.up.b32": lambda b: LANES - b,
    "shfl.sync.down.b32": lambda b: LANES + b,
    "shfl.sync.bfly.b32": lambda b: LANES ^ b,
    "shfl.sync.idx.b32": lambda b: b + 0 * LANES,
}
WHOLE_WARP = {"shfl.sync.up.b32": 0, "shfl.sync.down.b32": 31, "shfl.sync.bfly.b32": 31, "shfl.sync.idx.b32": 31}
REDUCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum}


def build(machine: Machine, instruction: Instruction) -> Execute | None:
    opcode, operands = instruction.opcode, instruction.operands
    if opcode in SHUFFLES:
        return _build_shuffle(machine, opcode, *operands)
    if opcode == "bar.warp.sync":
        check = _member_check(machine, operands[0])

        def pass_barrier(active: Active) -> None:
            check(active)
            machine.clock.pass_warp_barrier(active.mask)

        return pass_barrier
    name, _, rest = opcode.partition(".sync.")
    how, _, kind = rest.partition(".")
    if name == "redux" and how in REDUCTIONS and kind in ("s32", "u32"):
        return _build_reduction(machine, REDUCTIONS[how], kind, *operands)
    return None


def _member_check(machine: Machine, members: Operand) -> Callable[[Active], None]:
    read = machine.registers.read(members, "u32")

    def check(active: Active) -> None:
        mask = read()
        if not np.all((mask if mask.ndim == 0 else mask[active.threads]) == ALL_LANES):
            raise Refused("a collective of a part of a warp")

    return check


def _build_shuffle(
    machine: Machine, opcode: str, target: Operand, source: Operand, b: Operand, c: Operand, members: Operand
) -> Execute:
    check = _member_check(machine, members)
    result, valid = (target.first, target.second) if isinstance(target, Pair) else (target, None)
    write = machine.registers.write(result, "b32")
    write_valid = None if valid is None else machine.registers.write(valid, "pred")
    read, read_b, read_c = (
        machine.registers.read(operand, kind) for operand, kind in ((source, "b32"), (b, "s32"), (c, "u32"))
    )

    def shuffle(active: Active) -> None:
        check(active)
        lanes = SHUFFLES[opcode](_by_warp(read_b(), active) & 31)
        if not np.all(_by_warp(read_c(), active)[np.flatnonzero(active.mask) // 32] == WHOLE_WARP[opcode]):
            raise Refused("a shuffle within a part of a warp")
        inside = (lanes >= 0) & (lanes < 32)
        values = np.take_along_axis(_by_warp(read(), active), np.where(inside, lanes, LANES), 1)
        write(values.ravel(), active)
        if write_valid is not None:
            write_valid(inside.ravel(), active)

    return shuffle


def _by_warp(values: np.ndarray, active: Active) -> np.ndarray:
    return (values if values.ndim else np.broadcast_to(values, active.mask.shape)).reshape(-1, 32)


def _build_reduction(
    machine: Machine, reduce: np.ufunc, kind: str, target: Operand, source: Operand, members: Operand
) -> Execute:
    check = _member_check(machine, members)
    read, write = machine.registers.read(source, kind), machine.registers.write(target, kind)

    def execute(active: Active) -> None:
        check(active)
        values = _by_warp(read(), active)
        write(np.repeat(reduce.reduce(values, axis=1, dtype=values.dtype), 32), active)

    return execute

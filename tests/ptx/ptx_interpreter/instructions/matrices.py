"""The matrix units: ldmatrix and mma.sync."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ptx_interpreter.formats import pairs_to_f32
from ptx_interpreter.instructions.operation import Execute
from ptx_interpreter.instructions.transfers import begins_in
from ptx_interpreter.registers import Active
from ptx_interpreter.syntax import Instruction, Operand, Refused, Vector

if TYPE_CHECKING:
    from ptx_interpreter.machine import Machine

LOAD = re.compile(r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared\.b16")
MULTIPLY = re.compile(r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.(bf16|f16)\.\1\.f32")


def build(machine: Machine, instruction: Instruction) -> Execute | None:
    if match := LOAD.fullmatch(instruction.opcode):
        return _build_load(machine, int(match[1]), match[2] is not None, *instruction.operands)
    if match := MULTIPLY.fullmatch(instruction.opcode):
        return _build_multiply(machine, match[1], *instruction.operands)
    return None


def _parts(operand: Operand, count: int) -> tuple[Operand, ...]:
    if not isinstance(operand, Vector) or len(operand.parts) != count:
        raise Refused(f"{operand} as {count} registers")
    return operand.parts


def _build_load(machine: Machine, count: int, is_transposed: bool, target: Operand, place: Operand) -> Execute:
    """Lane 8 m + i names row i of matrix m; a row has 16 bytes. Lane l gets of each matrix the elements 2 (l % 4) and
    the next of row l / 4, or of column l / 4 when it is transposed."""
    begins = begins_in(machine, "shared", place)
    writes = [machine.registers.scatter(part, "b32") for part in _parts(target, count)]

    def load(active: Active) -> None:
        lanes = active.threads.reshape(-1, 32)[:, : 8 * count].ravel()
        rows = begins(active).reshape(-1, 32)[:, : 8 * count].ravel()
        data = machine.shared.load(machine, rows, 16, lanes)
        if is_transposed:
            elements = data.view(np.uint16).reshape(-1, 8, 8).swapaxes(1, 2)
            data = np.ascontiguousarray(elements).view(np.uint8)
        values = data.reshape(-1, count, 128).view(np.uint32)  # [warps, matrices, lanes]
        for matrix, write in enumerate(writes):
            write(values[:, matrix].ravel(), active)

    return load


def _build_multiply(machine: Machine, kind: str, d: Operand, a: Operand, b: Operand, c: Operand) -> Execute:
    """d [16, 8] = a [16, 16] b [16, 8] + c, whose elements the lanes hold as csrc/cuda/ptx.cuh says."""
    read = machine.registers.read
    read_a, read_b = [read(part, "b32") for part in _parts(a, 4)], [read(part, "b32") for part in _parts(b, 2)]
    read_c = [read(part, "f32") for part in _parts(c, 4)]
    writes = [machine.registers.write(part, "f32") for part in _parts(d, 4)]

    def octets(bits: np.ndarray, active: Active) -> np.ndarray:
        """[warps, 8, 8]: a pair of elements of each lane, four lanes a row."""
        everywhere = bits if bits.ndim else np.broadcast_to(bits, active.mask.shape)
        return pairs_to_f32(everywhere, kind).reshape(-1, 8, 8)

    def multiply(active: Active) -> None:
        top_left, bottom_left, top_right, bottom_right = (octets(part(), active) for part in read_a)
        left = np.block([[top_left, top_right], [bottom_left, bottom_right]])
        columns = np.concatenate([octets(part(), active) for part in read_b], axis=2)
        product = left @ columns.swapaxes(1, 2)  # [warps, 16, 8]
        by_lane = product.reshape(-1, 2, 32, 2)
        sums = [by_lane[:, e // 2, :, e % 2].ravel() + part() for e, part in enumerate(read_c)]
        for write, values in zip(writes, sums, strict=True):
            write(values, active)

    return multiply

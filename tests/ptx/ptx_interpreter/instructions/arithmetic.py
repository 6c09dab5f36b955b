"""Arithmetic, logic, comparisons and selections: what has one result and no side effect, of integers and floats."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx_interpreter.formats import FORMATS, INTEGERS, bf16_to_f32, f32_to_bf16
from ptx_interpreter.instructions.operation import Execute, Operation, build_operation
from ptx_interpreter.syntax import Instruction

if TYPE_CHECKING:
    from ptx_interpreter.machine import Machine

Array = np.ndarray
TANH_BITS = 11  # of tanh.approx.f32 are right, by the manual
SMALLEST_NORMAL = np.finfo(np.float32).tiny


def build(machine: Machine, instruction: Instruction) -> Execute | None:
    operation = TABLE.get(instruction.opcode)
    return None if operation is None else build_operation(machine, instruction, operation)


def divide(a: Array, b: Array) -> Array:
    """Round towards zero; a division by zero gives anything."""
    quotient = np.floor_divide(a, np.where(b == 0, b.dtype.type(1), b))
    remainder = a - quotient * b
    return quotient + ((remainder != 0) & ((a < 0) != (b < 0)))


def multiply_wide(kind: str) -> Callable[[Array, Array], Array]:
    wide = FORMATS[f"{kind[0]}{2 * int(kind[1:])}"].dtype
    return lambda a, b: np.multiply(a, b, dtype=wide)


def multiply_high(a: Array, b: Array) -> Array:
    """Return the upper 32 bits of products of 32-bit integers."""
    wide = np.int64 if a.dtype.kind == "i" else np.uint64
    return np.multiply(a, b, dtype=wide) >> wide(32)


def shift_left(a: Array, amount: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    return np.where(amount < bits, a << np.minimum(amount, bits - 1).astype(a.dtype), a.dtype.type(0))


def shift_right(a: Array, amount: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    shifted = a >> np.minimum(amount, bits - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(amount < bits, shifted, a.dtype.type(0))


def extract_bits(a: Array, begin: Array, length: Array) -> Array:
    """Return the field of 32-bit integers; that of signed ones keeps its sign."""
    begin, length = begin & np.uint32(0xFF), length & np.uint32(0xFF)
    wide = a.astype(np.int64) >> np.minimum(begin, 63).astype(np.int64)
    field = wide & ((np.int64(1) << np.minimum(length, 32).astype(np.int64)) - 1)
    if a.dtype.kind == "u":
        return field
    sign = np.int64(1) << np.maximum(np.minimum(length, 32).astype(np.int64) - 1, 0)
    return np.where(length == 0, 0, (field ^ sign) - sign)


def insert_bits(field: Array, into: Array, begin: Array, length: Array) -> Array:
    mask = ((np.uint64(1) << length.astype(np.uint64)) - np.uint64(1)) << begin.astype(np.uint64)
    return (into & ~mask) | ((field.astype(np.uint64) << begin.astype(np.uint64)) & mask)


def permute_bytes(a: Array, b: Array, selector: Array) -> Array:
    eight = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    result = np.uint64(0)
    for place in range(4):
        choice = (selector.astype(np.uint64) >> np.uint64(4 * place)) & np.uint64(15)
        byte = (eight >> (choice & np.uint64(7)) * np.uint64(8)) & np.uint64(0xFF)
        sign = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
        result = result | np.where(choice & np.uint64(8), sign, byte) << np.uint64(8 * place)
    return result


def flush(a: Array) -> Array:
    """Return floats with zeros for those too small for a full mantissa."""
    return np.where(np.abs(a) < SMALLEST_NORMAL, np.copysign(np.float32(0), a), a)


def multiply_add(a: Array, b: Array, c: Array) -> Array:
    return np.multiply(a, b, dtype=np.float64) + c  # rounded to float32 by the register


def multiply_add_down(a: Array, b: Array, c: Array) -> Array:
    exact = multiply_add(a, b, c)
    near = exact.astype(np.float32)
    return np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)


def tanh_approximated(a: Array) -> Array:
    """Return tanh with the bits that the hardware promises, so that nothing relies on more."""
    exact = np.tanh(np.asarray(a, np.float32))
    return (exact.view(np.uint32) & np.uint32(0xFFFFFFFF << (24 - TANH_BITS) & 0xFFFFFFFF)).view(np.float32)


COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def _is_nan(a: Array, b: Array) -> Array:
    return np.isnan(a) | np.isnan(b)


def _integers() -> dict[str, Operation]:
    table = {}
    for kind in INTEGERS:
        binary: dict[str, Callable[..., Array]] = {
            **{"add": operator.add, "sub": operator.sub, "mul.lo": operator.mul},
            **{"min": np.minimum, "max": np.maximum, "div": divide, "rem": lambda a, b: a - divide(a, b) * b},
        }
        table |= {f"{name}.{kind}": Operation(kind, (kind, kind), compute) for name, compute in binary.items()}
        table[f"mad.lo.{kind}"] = Operation(kind, (kind,) * 3, lambda a, b, c: a * b + c)
        table[f"shr.{kind}"] = Operation(kind, (kind, "u32"), shift_right)
        for name, compare in COMPARISONS.items():
            table[f"setp.{name}.{kind}"] = Operation("pred", (kind, kind), compare)
    for kind in ("s16", "u16", "s32", "u32"):
        wide, product = f"{kind[0]}{2 * int(kind[1:])}", multiply_wide(kind)
        table[f"mul.wide.{kind}"] = Operation(wide, (kind, kind), product)
        table[f"mad.wide.{kind}"] = Operation(
            wide, (kind, kind, wide), lambda a, b, c, product=product: product(a, b) + c
        )
    for kind in ("s32", "u32"):
        table[f"mul.hi.{kind}"] = Operation(kind, (kind, kind), multiply_high)
        table[f"bfe.{kind}"] = Operation(kind, (kind, "u32", "u32"), extract_bits)
    table |= {f"neg.{kind}": Operation(kind, (kind,), operator.neg) for kind in ("s16", "s32", "s64")}
    return table


def _bits() -> dict[str, Operation]:
    table = {}
    for kind in ("b16", "b32", "b64", "pred"):
        binary = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}
        table |= {f"{name}.{kind}": Operation(kind, (kind, kind), compute) for name, compute in binary.items()}
        table[f"not.{kind}"] = Operation(kind, (kind,), operator.invert)
    for kind in ("b16", "b32", "b64"):
        table[f"shl.{kind}"] = Operation(kind, (kind, "u32"), shift_left)
        table[f"setp.eq.{kind}"] = Operation("pred", (kind, kind), operator.eq)
        table[f"setp.ne.{kind}"] = Operation("pred", (kind, kind), operator.ne)
    for kind in (*INTEGERS, "b16", "b32", "b64", "f32"):
        table[f"selp.{kind}"] = Operation(kind, (kind, kind, "pred"), lambda a, b, chosen: np.where(chosen, a, b))
    table["bfi.b32"] = Operation("b32", ("b32", "b32", "u32", "u32"), insert_bits)
    table["prmt.b32"] = Operation("b32", ("b32", "b32", "b32"), permute_bytes)
    return table


def _floats() -> dict[str, Operation]:
    unary: dict[str, Callable[..., Array]] = {
        **{"neg.f32": operator.neg, "abs.f32": np.abs, "abs.ftz.f32": lambda a: np.abs(flush(a))},
        **{"ex2.approx.f32": np.exp2, "ex2.approx.ftz.f32": lambda a: flush(np.exp2(flush(a)))},
        **{"rcp.rn.f32": lambda a: np.float32(1) / a, "rcp.approx.ftz.f32": lambda a: flush(np.float32(1) / flush(a))},
        **{"tanh.approx.f32": tanh_approximated},
    }
    binary: dict[str, Callable[..., Array]] = {
        **{"add.f32": operator.add, "sub.f32": operator.sub, "mul.f32": operator.mul},
        **{"div.rn.f32": operator.truediv, "div.full.f32": operator.truediv},
        **{"min.f32": np.fmin, "max.f32": np.fmax, "copysign.f32": lambda sign, a: np.copysign(a, sign)},
    }
    ternary = {
        "fma.rn.f32": multiply_add,
        "fma.rn.ftz.f32": lambda a, b, c: flush(multiply_add(flush(a), flush(b), flush(c)).astype(np.float32)),
        "fma.rm.f32": multiply_add_down,
    }
    table = {name: Operation("f32", ("f32",), compute) for name, compute in unary.items()}
    table |= {name: Operation("f32", ("f32", "f32"), compute) for name, compute in binary.items()}
    table |= {name: Operation("f32", ("f32",) * 3, compute) for name, compute in ternary.items()}
    # A comparison with a NaN is false; that of a name with a u is true.
    for name, compare in COMPARISONS.items():
        ordered = (lambda a, b: (a < b) | (a > b)) if name == "ne" else compare
        table[f"setp.{name}.f32"] = Operation("pred", ("f32", "f32"), ordered)
        table[f"setp.{name}u.f32"] = Operation(
            "pred", ("f32", "f32"), lambda a, b, compare=compare: compare(a, b) | _is_nan(a, b)
        )
    table["setp.nan.f32"] = Operation("pred", ("f32", "f32"), _is_nan)
    table["setp.num.f32"] = Operation("pred", ("f32", "f32"), lambda a, b: ~_is_nan(a, b))
    table["max.f16"] = Operation("f16", ("f16", "f16"), np.fmax)
    table["setp.nan.f16"] = Operation("pred", ("f16", "f16"), _is_nan)
    table["max.bf16"] = Operation(
        "bf16", ("bf16", "bf16"), lambda a, b: f32_to_bf16(np.fmax(bf16_to_f32(a), bf16_to_f32(b)))
    )
    table["setp.nan.bf16"] = Operation("pred", ("bf16", "bf16"), lambda a, b: _is_nan(bf16_to_f32(a), bf16_to_f32(b)))
    return table


TABLE = {**_integers(), **_bits(), **_floats()}

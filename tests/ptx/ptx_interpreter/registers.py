"""The registers of a block's threads, and how instructions read and write them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_interpreter.formats import FORMATS, integer
from ptx_interpreter.syntax import Immediate, Kernel, Name, Operand, Refused

GARBAGE = 0xAB  # every byte of a register that nobody wrote


class Active:
    """The threads that execute an instruction: a mask [threads] with at least one of them."""

    __slots__ = ("_threads", "count", "is_full", "mask")

    def __init__(self, mask: np.ndarray, count: int | None = None) -> None:
        self.mask = mask
        self.count = np.count_nonzero(mask) if count is None else count
        self.is_full = self.count == mask.size
        self._threads: np.ndarray | None = None

    @property
    def threads(self) -> np.ndarray:
        """Their numbers, ascending."""
        if self._threads is None:
            self._threads = np.flatnonzero(self.mask)
        return self._threads

    def where(self, condition: np.ndarray) -> Active | None:
        """Return those with the condition [threads], or None where there are none."""
        mask = self.mask & condition
        count = np.count_nonzero(mask)
        return Active(mask, count) if count else None


Read = Callable[[], np.ndarray]  # of all threads [threads], or one value for all
Write = Callable[[np.ndarray, Active], None]  # of the values of all threads, those of the active ones
Scatter = Callable[[np.ndarray, Active], None]  # of the values of the active threads alone


class Registers:
    def __init__(self, kernel: Kernel, threads: int, variables: dict[str, int]) -> None:
        """`variables`: the addresses of what has a name."""
        self._kernel = kernel
        self._variables = variables
        self._arrays = {
            name: np.zeros(threads, np.bool_ if kind == "pred" else integer(FORMATS[kind].size, False))
            for name, kind in kernel.registers.items()
        }
        thread = np.arange(threads)
        self._special = {
            "%tid.x": thread,
            "%laneid": thread % 32,
            "%warpid": thread // 32,
            "%ntid.x": np.int64(threads),
        }
        self._special |= {"%tid.y": np.int64(0), "%tid.z": np.int64(0)}
        self.grid: dict[str, int] = {}  # %ctaid and %nctaid

    def reset(self) -> None:
        """Leave nothing of the block before."""
        for array in self._arrays.values():
            array.view(np.uint8)[:] = 0 if array.dtype == np.bool_ else GARBAGE

    def predicate(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def read(self, operand: Operand, kind: str) -> Read:
        """Return a function that gives the operand as a value of the type `kind`."""
        dtype = FORMATS[kind].dtype
        if isinstance(operand, Name):
            operand = self._kernel.constants.get(operand.name, operand)
        if isinstance(operand, Immediate):
            number = _number(operand, kind)
            return lambda: number
        if not isinstance(operand, Name):
            raise Refused(f"{operand} as a value")
        name = operand.name
        if name in self._arrays:
            array = self._arrays[name]
            if array.dtype.itemsize == dtype.itemsize:
                view = array.view(dtype)
                return lambda: view
            if array.dtype.itemsize > dtype.itemsize:
                narrow = integer(dtype.itemsize, False)
                return lambda: array.astype(narrow).view(dtype)
        elif name in self._special:
            value = self._special[name].astype(dtype)
            return lambda: value
        elif name.startswith(("%ctaid.", "%nctaid.")):
            return lambda: dtype.type(self.grid[name])
        elif name in self._variables:
            value = dtype.type(self._variables[name])
            return lambda: value
        raise Refused(f"{name} as a value of type {kind}")

    def write(self, operand: Operand, kind: str) -> Write:
        view = self._target(operand, kind)

        def write(values: np.ndarray, active: Active) -> None:
            if active.is_full:
                view[...] = values
            else:
                np.copyto(view, values, where=active.mask, casting="unsafe")

        return write

    def scatter(self, operand: Operand, kind: str) -> Scatter:
        view = self._target(operand, kind)

        def scatter(values: np.ndarray, active: Active) -> None:
            view[active.threads] = values

        return scatter

    def _target(self, operand: Operand, kind: str) -> np.ndarray:
        """Return the register as an array of `kind`; a wider register takes the value extended."""
        if not isinstance(operand, Name) or operand.name not in self._arrays:
            raise Refused(f"{operand} as a result")
        array = self._arrays[operand.name]
        dtype, size, is_signed = FORMATS[kind]
        if array.dtype.itemsize == size and (kind == "pred") == (array.dtype == np.bool_):
            return array.view(dtype)
        if array.dtype.itemsize > size and dtype.kind in "iu":
            return array.view(integer(array.dtype.itemsize, is_signed))
        raise Refused(f"{operand.name} as a result of type {kind}")


def _number(operand: Immediate, kind: str) -> np.generic:
    dtype = FORMATS[kind].dtype
    if kind == "pred":
        return np.bool_(operand.bits != 0)
    if operand.float_bits and operand.float_bits != 8 * dtype.itemsize:
        raise Refused(f"a number of {operand.float_bits} bits as {kind}")
    bits = operand.bits & ((1 << 8 * dtype.itemsize) - 1)
    return np.array(bits, integer(dtype.itemsize, False)).view(dtype)[()]

"""Global memory: buffers with guards around them."""

from __future__ import annotations

import numpy as np
import torch

from ptx_interpreter.checked_memory import CheckedMemory, Reporter
from ptx_interpreter.findings import Kind, Stopped

BASE = 0x7_0000_0000  # the address of its first byte
GUARD = 4096  # bytes at least between two buffers
ALIGNMENT = 256


class Buffer:
    def __init__(self, name: str, begin: int, tensor: torch.Tensor, is_input: bool) -> None:
        self.name, self.begin, self.is_input = name, begin, is_input
        self.dtype, self.shape = tensor.dtype, tensor.shape
        self.end = begin + tensor.numel() * tensor.element_size()


class GlobalMemory(CheckedMemory):
    name = "global memory"

    def __init__(self) -> None:
        super().__init__(GUARD)
        self._buffers: list[Buffer] = []
        self._begins = np.zeros(0, np.int64)
        self._ends = np.zeros(0, np.int64)
        self._are_inputs = np.zeros(0, np.bool_)

    def place(self, name: str, tensor: torch.Tensor, is_input: bool = True, offset: int = 0) -> int:
        """Return the address of a copy of `tensor`, `offset` bytes past a boundary of 256."""
        begin = -(-self.data.size // ALIGNMENT) * ALIGNMENT + offset
        buffer = Buffer(name, begin, tensor, is_input)
        self._grow(-(-(buffer.end + GUARD) // ALIGNMENT) * ALIGNMENT)
        self.data[begin : buffer.end] = tensor.contiguous().flatten().view(torch.uint8).numpy()
        self.written[begin : buffer.end] = True
        self._buffers.append(buffer)
        self._begins = np.append(self._begins, begin)
        self._ends = np.append(self._ends, buffer.end)
        self._are_inputs = np.append(self._are_inputs, is_input)
        return BASE + begin

    def allocate(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, offset: int = 0) -> int:
        """Return the address of a buffer that nobody has written."""
        address = self.place(name, torch.zeros(shape, dtype=dtype), is_input=False, offset=offset)
        buffer = self._buffers[-1]
        self.written[buffer.begin : buffer.end] = False
        self.data[buffer.begin : buffer.end] = 0x7F
        return address

    def tensor(self, name: str) -> torch.Tensor:
        """Return a copy of the buffer as it is now."""
        buffer = self._find(name)
        tensor = torch.empty(buffer.shape, dtype=buffer.dtype)
        tensor.flatten().view(torch.uint8).numpy()[:] = self.data[buffer.begin : buffer.end]
        return tensor

    def unwritten(self, name: str) -> int:
        """Return how many bytes of the buffer nobody wrote."""
        buffer = self._find(name)
        return int((~self.written[buffer.begin : buffer.end]).sum())

    def check_bounds(self, reporter: Reporter, begins: np.ndarray, size: int, is_write: bool) -> None:
        buffers = np.searchsorted(self._begins, begins, side="right") - 1
        outside = (buffers < 0) | (begins + size > self._ends[buffers])
        if outside.any():
            access = "write" if is_write else "read"
            reporter.report(Kind.OUT_OF_BOUNDS, f"{access} of {size} bytes at {self.describe(int(begins[outside][0]))}")
            raise Stopped
        if is_write and self._are_inputs[buffers].any():
            wrong = begins[self._are_inputs[buffers]]
            reporter.report(Kind.WRITE_TO_INPUT, self.describe(int(wrong[0])))

    def check_read_only(self, reporter: Reporter, begins: np.ndarray) -> None:
        """Refuse ld.global.nc of what was written: it may read from a cache that sees no writes."""
        buffers = np.searchsorted(self._begins, begins, side="right") - 1
        if not self._are_inputs[buffers].all():
            wrong = begins[~self._are_inputs[buffers]]
            reporter.report(Kind.NOT_READ_ONLY, self.describe(int(wrong[0])))

    def describe(self, byte: int) -> str:
        distances = [max(buffer.begin - byte, byte - buffer.end, 0) for buffer in self._buffers]
        buffer = self._buffers[int(np.argmin(distances))]
        return f"byte {byte - buffer.begin} of {buffer.name} [{buffer.end - buffer.begin} bytes]"

    def _find(self, name: str) -> Buffer:
        (buffer,) = (buffer for buffer in self._buffers if buffer.name == name)
        return buffer

    def _grow(self, size: int) -> None:
        more = size - self.data.size
        self.data = np.concatenate([self.data, np.full(more, 0x7F, np.uint8)])
        self.written = np.concatenate([self.written, np.zeros(more, np.bool_)])
        self.races.grow(more)

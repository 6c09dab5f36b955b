"""The answers of recorded graphs: one block of memory, so that one copy takes them all along."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastbert_kernels.engine.packed import Results


@dataclass(frozen=True)
class Answered:
    """What a call with padded texts has come to.

    Attributes:
        results: a row per sample, on the device; undefined where there is a fault.
        uncertainty: that of every sample, on the host.
        fault: whether an input holds a value that it must not hold.
    """

    results: Results
    uncertainty: list[float]
    fault: bool


@dataclass(frozen=True)
class AnswerMemory:
    """Memory that stages write to, and what lies where in it and in its copies.

    First come exit layers, uncertainties and whether there is a fault, which a call reads; then the logits.

    Attributes:
        memory: uint8, on the device.
        rows: R.
        num_labels: N.
    """

    memory: Tensor
    rows: int
    num_labels: int

    @classmethod
    def empty(cls, like: Tensor, rows: int, num_labels: int) -> AnswerMemory:
        """Make memory on the device of `like`."""
        size = _aligned(8 * rows) + _aligned(4 * rows) + _aligned(4) + 4 * rows * num_labels
        return cls(like.new_zeros(size, dtype=torch.uint8), rows, num_labels)

    @property
    def read_bytes(self) -> int:
        """Return the size of what a call reads."""
        return _aligned(8 * self.rows) + _aligned(4 * self.rows) + _aligned(4)

    @property
    def results(self) -> Results:
        """Return the results, R rows of this memory."""
        logits = self.memory[self.read_bytes :].view(torch.float32).view(self.rows, self.num_labels)
        return Results(logits, self.uncertainty(self.memory), self.memory[: 8 * self.rows].view(torch.int64))

    @property
    def fault(self) -> Tensor:
        """Return int32 [1] of this memory, not 0 where an input holds a value that it must not hold."""
        return self.fault_in(self.memory)

    def copy(self) -> AnswerMemory:
        """Return a copy of what is there now."""
        return AnswerMemory(self.memory.clone(), self.rows, self.num_labels)

    def uncertainty(self, memory: Tensor) -> Tensor:
        """Return the uncertainties, float32 [R], that lie in the first `read_bytes` of such a memory."""
        begin = _aligned(8 * self.rows)
        return memory[begin : begin + 4 * self.rows].view(torch.float32)

    def fault_in(self, memory: Tensor) -> Tensor:
        """Return the fault, int32 [1], that lies there."""
        begin = _aligned(8 * self.rows) + _aligned(4 * self.rows)
        return memory[begin : begin + 4].view(torch.int32)


def _aligned(size: int) -> int:
    """Return where the next part begins behind so many bytes: kernels look at addresses."""
    return -(-size // 16) * 16

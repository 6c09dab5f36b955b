"""Small tensors on their way from the device to the host, in pinned memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class HostCopy:
    """Small device tensors on their way into pinned memory; neither side waits until `wait`."""

    def __init__(self, *sources: Tensor) -> None:
        on_gpu = sources[0].is_cuda
        self._copies = [
            torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=on_gpu).copy_(
                source, non_blocking=True
            )
            for source in sources
        ]
        self._arrived: torch.cuda.Event | None = None
        if on_gpu:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(sources[0].device))

    def wait(self) -> list[Tensor]:
        """The tensors on the host, when what was queued before the copy is done; what came behind it may go on."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copies


class HostCounts:
    """Survivors and their tokens, in memory that is kept from call to call; for one run at a time."""

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        with torch.inference_mode(False):  # memory that lives on is written in and outside of it
            self._memory = torch.empty(2, dtype=torch.int32, device="cpu", pin_memory=on_gpu)
        self._numbers = self._memory.numpy()  # read without PyTorch
        self._arrived = torch.cuda.Event() if on_gpu else None
        self.device = device

    def copy(self, counts: Tensor) -> None:
        """Queue the copy of `counts` [2] int32; where a graph is recorded, it becomes a part of that."""
        self._memory.copy_(counts, non_blocking=True)

    def mark(self) -> None:
        """Say that `wait` waits for what is queued by now."""
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(self.device))

    def wait(self) -> tuple[int, int]:
        """Return the numbers, when what was queued before the mark is done; what came behind it may go on."""
        if self._arrived is not None:
            self._arrived.synchronize()
        survivors, tokens = self._numbers.tolist()
        return survivors, tokens


class HostCountsPool:
    """Those that no run has at present; runs of several threads each take one."""

    def __init__(self) -> None:
        self._free: list[HostCounts] = []

    def take(self, device: torch.device) -> HostCounts:
        """Return one for numbers from this device."""
        try:
            found = self._free.pop()
        except IndexError:
            return HostCounts(device)
        return found if found.device == device else HostCounts(device)

    def give_back(self, counts: HostCounts) -> None:
        """Let another run have it."""
        self._free.append(counts)


class HostLink:
    """Memory for what a call sends to the device and for what it reads at its end; for one call at a time."""

    def __init__(self, device: torch.device, numbers: int, read_bytes: int) -> None:
        """
        Args:
            device: of the encoder.
            numbers: how many are sent.
            read_bytes: how many bytes are read.
        """
        on_gpu = device.type == "cuda"
        with torch.inference_mode(False):  # memory that lives on is written in and outside of it
            self._sent = torch.zeros(numbers, dtype=torch.int32, device="cpu", pin_memory=on_gpu)
            self._received = torch.empty(read_bytes, dtype=torch.uint8, device="cpu", pin_memory=on_gpu)
        self._numbers = self._sent.numpy()
        self._fractions = self._numbers.view("float32")
        self._arrived = torch.cuda.Event() if on_gpu else None
        self._device = device

    def send(self, numbers: Sequence[int], fractions: float | Tensor | None, count: int, target: Tensor) -> None:
        """Queue a copy of numbers to `target` int32.

        Args:
            numbers: the first ones.
            fractions: bits of `count` of them in float32 behind these, from a number or from [count] on the host; None
                leaves whatever was there.
            count: of the fractions.
            target: as many as there is room for.
        """
        first = len(numbers)
        self._numbers[:first] = numbers
        if fractions is not None:
            given = fractions.detach().float().numpy() if isinstance(fractions, Tensor) else fractions
            self._fractions[first : first + count] = given
        target.copy_(self._sent, non_blocking=True)

    def read(self, source: Tensor) -> None:
        """Queue a copy of uint8 [read_bytes], for which `wait` waits."""
        self._received.copy_(source, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(self._device))

    def wait(self) -> Tensor:
        """Return what was read, on the host, when what was queued before is done."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._received

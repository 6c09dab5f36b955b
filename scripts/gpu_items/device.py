"""The device that items run on: a GPU, or for a rehearsal the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from helpers.op_inputs import map_tensors

_STAND_INS = {"cuda": "cpu", "triton": "reference"}  # of the backends, in a rehearsal


@dataclass(frozen=True)
class Device:
    """Where items run, and how large.

    Attributes:
        name: `cuda`, or `cpu` for a rehearsal of everything but the GPU.
        small: shapes as small as sanitizers want them; always so in a rehearsal.
        repeats: how often a call is timed.
    """

    name: str
    small: bool = False
    repeats: int = 30

    @property
    def is_gpu(self) -> bool:
        return self.name == "cuda"

    @property
    def is_small(self) -> bool:
        return self.small or not self.is_gpu

    def backend(self, name: str) -> str:
        """Return the backend to take for one of a GPU."""
        return name if self.is_gpu else _STAND_INS[name]

    def move(self, value: Any) -> Any:
        """Return the same value with its tensors on this device."""
        return map_tensors(lambda tensor: tensor.to(self.name), value)

    def wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()

    def time(self, run: Callable[[], Any], at_most: int = 1000) -> dict[str, float]:
        """Return the median time of a call on the device, launches included, and how fast the host can issue it.

        Args:
            run: the call.
            at_most: fewer repeats than the device's, for a long call.

        Returns:
            `us` and `host_us`, microseconds.
        """
        repeats = min(at_most, self.repeats)
        for _ in range(min(3, repeats)):
            run()
        self.wait()
        times = [self._once(run) for _ in range(repeats)]
        self.wait()
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        host = (time.perf_counter() - begin) / repeats
        self.wait()
        return {"us": round(1e6 * median(times), 1), "host_us": round(1e6 * host, 1)}

    def _once(self, run: Callable[[], Any]) -> float:
        if not self.is_gpu:
            begin = time.perf_counter()
            run()
            return time.perf_counter() - begin
        begin_event, end_event = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin_event.record()
        run()
        end_event.record()
        end_event.synchronize()
        return 1e-3 * begin_event.elapsed_time(end_event)

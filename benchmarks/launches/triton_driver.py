"""A driver that lets Triton launch without a GPU: kernels are compiled for one, and a launch returns at once."""

from __future__ import annotations

import itertools
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

_functions = itertools.count(0x1000, 0x1000)


class _Utils:
    def load_binary(self, *arguments: Any) -> tuple[str, int, int, int, int]:
        return "loaded", next(_functions), 0, 0, 1024  # module, function, registers, spills, most threads

    def unload_module(self, module: str) -> None: ...

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}


class _Launcher:
    """What runs a compiled kernel; Triton's own, in C, reads the addresses and calls the CUDA driver."""

    def __init__(self, source: Any, metadata: Any) -> None: ...

    def __call__(self, *arguments: Any) -> None: ...


class StandIn:
    """The part of Triton's driver that a launch asks."""

    utils, launcher_cls = _Utils(), _Launcher

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def use() -> None:
    """Make all launches of this process return at once."""
    driver.set_active(StandIn())

"""The compiled module with stand-ins for its CUDA kernels: all that a host does for a launch, but the launch."""

from __future__ import annotations

import ctypes
import importlib.util
import sys

import torch

from cmake_builds import build

_OPTIONS = ("-DFASTBERT_STAND_INS=ON", "-DCMAKE_BUILD_TYPE=Release")
_TABLE = "__dlpack_c_exchange_api__"  # see csrc/binding/dlpack.h
_CAPSULE = b"dlpack_exchange_api"


class DriverLaunch(ctypes.Structure):
    """What the CUDA driver was given for a launch: parameters as their bits, `count` of them."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("function", "blocks", "threads", "shared_bytes", "stream", "count")),
        ("parameters", ctypes.c_uint64 * 16),
    )


class Launches:
    """The module in use: `fastbert_kernels` finds it in place of its own, and takes CPU tensors for those of a GPU."""

    def __init__(self, *, computing: bool = False) -> None:
        """
        Args:
            computing: whether launches compute, in float32 on the CPU, what their kernels would; else nobody leaves.
        """
        path = next(iter(sorted(build("launches", _OPTIONS).glob("_C.*.so"))))
        self._library = ctypes.CDLL(str(path))
        self._library.table_on_gpu.restype = ctypes.c_void_p
        self._library.count_launches.restype = ctypes.c_int64
        self._library.last_driver_launch.restype = ctypes.POINTER(DriverLaunch)
        self._library.compute(int(computing))
        _replace_table(self._library)
        spec = importlib.util.spec_from_file_location("fastbert_kernels._C", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["fastbert_kernels._C"] = module
        spec.loader.exec_module(module)
        from fastbert_kernels import backends

        backends.BACKENDS["cuda"] = backends.Backend("cuda", "cpu", lambda: None)

    @property
    def count(self) -> int:
        """How many kernels were launched so far."""
        return self._library.count_launches()

    @property
    def last_of_driver(self) -> DriverLaunch:
        """The last launch of a kernel that was not compiled with the module."""
        return DriverLaunch.from_buffer_copy(self._library.last_driver_launch().contents)

    def set_current(self, *, context: int = 1, stream: int = 0) -> None:
        """Say which context is current in this thread, 0 for none, and which stream in all."""
        self._library.set_current(ctypes.c_uint64(context), ctypes.c_uint64(stream))


def _replace_table(library: ctypes.CDLL) -> None:
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype, api.PyCapsule_GetPointer.argtypes = (
        ctypes.c_void_p,
        [ctypes.py_object, ctypes.c_char_p],
    )
    api.PyCapsule_New.restype, api.PyCapsule_New.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
    )
    of_torch = api.PyCapsule_GetPointer(getattr(torch.Tensor, _TABLE), _CAPSULE)
    table = library.table_on_gpu(ctypes.c_void_p(of_torch))
    setattr(torch.Tensor, _TABLE, api.PyCapsule_New(table, _CAPSULE, None))

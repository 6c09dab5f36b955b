"""The kernels of the instruction set amx on any processor: tile_model.h stands in for the tiles.

Its vectors are those that any processor has, or, where the processor has them, those of AVX-512 that stand beside real
tiles. In the library of the tests tiles are taken from one row on, and the system gives them to the first thread only
(tile_system.cpp). So what the main thread computes comes from tiles, and what any other computes, from vectors.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

import cmake_builds
from fastbert_hf.machine import describe_machine

SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
OPERANDS = {torch.bfloat16: 1, torch.int8: 3}  # csrc/dtype.h
EPILOGUES = {"none": 0, "relu": 1, "gelu": 2}  # csrc/cpu/kernels.h
T = TypeVar("T")


def build(target: str, *, avx512: bool = False, sanitize: bool = False) -> Path:
    """Compile a target of CMakeLists.txt with the model, unless it is up to date, and return the folder it lies in.

    Args:
        target: of CMakeLists.txt.
        avx512: with the vectors of AVX-512.
        sanitize: under AddressSanitizer and UndefinedBehaviorSanitizer.
    """
    options = ["-DFASTBERT_TILE_MODEL=ON", "-DFASTBERT_CUDA=OFF"]
    options += ["-DFASTBERT_TILE_MODEL_AVX512=ON"] if avx512 else []
    options += ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG="]  # CMakeLists.txt optimises the kernels
    options += [f"-DCMAKE_CXX_FLAGS={SANITIZERS}"] if sanitize else []
    name = "tile_model" + ("_avx512" if avx512 else "") + ("_sanitized" if sanitize else "")
    return cmake_builds.build(name, options, target)


def has_avx512() -> bool:
    """Return whether the processor runs the vectors of AVX-512 that stand beside real tiles."""
    return {"avx512f", "avx512_bf16", "avx512_vnni"} <= {*describe_machine()["extensions"]}


@dataclass
class Matrix:
    """A Linear layer as the kernels have it, and as float64 sees the values that they multiply."""

    dtype: torch.dtype
    memory: Tensor
    weight: Tensor  # [N, K] float64, rounded
    bias: Tensor  # [N] float64


@dataclass
class Rows:
    """Rows of activations as the kernels read them, and their values in float64."""

    values: Tensor  # [T, K] or, in int8, [T, bytes of a row]
    scale: Tensor  # [T], in int8
    shift: Tensor  # [T], in int8
    exact: Tensor  # [T, K] float64


class TileKernels:
    """Calls of the compiled library, on CPU tensors."""

    def __init__(self, *, avx512: bool = False, sanitize: bool = False) -> None:
        folder = build("tile_kernels", avx512=avx512, sanitize=sanitize)
        self._library = ctypes.CDLL(str(folder / "libtile_kernels.so"))
        self._library.fault.restype = ctypes.c_char_p
        for name in ("packed_matrix_bytes", "quantised_row_bytes", "attention_scratch", "fewest_tile_rows"):
            getattr(self._library, name).restype = ctypes.c_int64
        self._library.tile_products.restype = ctypes.c_int64
        before = dict(os.environ)
        try:  # both are read once
            os.environ.update(FASTBERT_TILE_ROWS="1", FASTBERT_TILE_MODEL_SYSTEM="threads")
            reason = self._library.fault()
            assert reason is None, reason
            for operand in OPERANDS.values():
                assert self._library.fewest_tile_rows(operand, ctypes.c_int64(64)) == 1
        finally:
            os.environ.clear()
            os.environ.update(before)

    def with_tiles(self, call: Callable[[], T]) -> T:
        """Run `call` in this thread, and see that it took tiles and gave them back."""
        self._library.tile_products()
        result = call()
        assert self._library.tile_products() > 0
        assert self._library.tiles_are_released()
        return result

    def with_vectors(self, call: Callable[[], T]) -> T:
        """Run `call` in a thread without tiles."""
        results: list[T] = []
        thread = threading.Thread(target=lambda: results.append(call()))
        self._library.tile_products()
        thread.start()
        thread.join()
        assert self._library.tile_products() == 0
        return results[0]

    def leave_tiles_configured(self) -> None:
        """Leave the tiles of this thread as a careless library does."""
        self._library.leave_tiles_configured()

    def pack(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Matrix:
        """Pack `weight` [N, K] and `bias` [N], both float32."""
        (outputs, depth), operand = weight.shape, OPERANDS[dtype]
        sizes = ctypes.c_int64(outputs), ctypes.c_int64(depth)
        memory = aligned(self._library.packed_matrix_bytes(*sizes, operand))
        self._library.pack_matrix(_at(weight), _at(bias), *sizes, operand, _at(memory))
        if dtype == torch.int8:
            step = weight.abs().amax(1, keepdim=True) / 127
            rounded = (weight / step).round().double() * step.double()
        else:
            rounded = weight.to(dtype).double()
        return Matrix(dtype, memory, rounded, bias.double())

    def rows(self, values: Tensor, dtype: torch.dtype) -> Rows:
        """Bring float32 rows [T, K] into the form that products in `dtype` read."""
        count, depth = values.shape
        if dtype != torch.int8:
            rounded = values.to(dtype)
            return Rows(rounded, torch.empty(0), torch.empty(0), rounded.double())
        width = self._library.quantised_row_bytes(ctypes.c_int64(depth))
        made = Rows(
            torch.full((count, width), 77, dtype=torch.uint8),
            torch.full((count,), float("nan")),
            torch.full((count,), -77, dtype=torch.int32),
            torch.empty(0),
        )
        for row in range(count):
            self._library.quantise_row(
                _at(values[row]),
                ctypes.c_int64(depth),
                _at(made.values[row]),
                _at(made.scale[row:]),
                _at(made.shift[row:]),
            )
        made.exact = (made.values[:, :depth].double() - made.shift[:, None]) * made.scale[:, None].double()
        return made

    def product(
        self,
        matrix: Matrix,
        rows: Rows,
        *,
        begin: int = 0,
        end: int | None = None,
        epilogue: str = "none",
        residual: Tensor | None = None,
    ) -> Tensor:
        """Return float32 [T, N], NaN outside the rows from `begin` to `end`."""
        (outputs, depth), count = matrix.weight.shape, len(rows.values)
        out = torch.full((count, outputs), float("nan"))
        self._library.product(
            _at(matrix.memory),
            ctypes.c_int64(outputs),
            ctypes.c_int64(depth),
            OPERANDS[matrix.dtype],
            _at(rows.values),
            ctypes.c_int64(rows.values.stride(0)),
            _at(rows.scale),
            _at(rows.shift),
            EPILOGUES[epilogue],
            None if residual is None else _at(residual),
            _at(out),
            ctypes.c_int64(begin),
            ctypes.c_int64(count if end is None else end),
        )
        return out

    def attention(self, rows: Tensor, heads: int) -> Tensor:
        """Return the contexts [n, H] of bfloat16 queries, keys and values [n, 3 H] of one sample."""
        n, width = rows.shape[0], rows.shape[1] // 3
        out = torch.full((n, width), float("nan"), dtype=torch.bfloat16)
        size = width // heads
        scratch = aligned(4 * self._library.attention_scratch(ctypes.c_int64(n), ctypes.c_int64(size)), fill=0xFF)
        for head in range(heads):
            numbers = (ctypes.c_int64(number) for number in (n, width, size, head))
            self._library.attention(_at(rows), *numbers, _at(out), _at(scratch))
        return out


def aligned(size: int, fill: int = 77) -> Tensor:
    """Return `size` bytes at the beginning of a cache line, and not one more than that."""
    memory = torch.full((size + 64,), fill, dtype=torch.uint8)
    begin = -memory.data_ptr() % 64
    return memory[begin : begin + size]


def at_the_end_of_memory(values: Tensor) -> Tensor:
    """Return a copy that ends where a page begins that nobody may read."""
    size = -(-values.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    forbidden = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + size)
    assert ctypes.CDLL(None).mprotect(forbidden, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    copy = torch.frombuffer(memory, dtype=values.dtype, count=values.numel(), offset=size - values.nbytes)
    return copy.view_as(values).copy_(values)


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())

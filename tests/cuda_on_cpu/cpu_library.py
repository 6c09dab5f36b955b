"""Builds the CUDA sources for the CPU (see host_shim.h) and calls their launchers through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "csrc/cuda/exit_head.cu", ROOT / "csrc/cuda/compact.cu", ROOT / "tests/cuda_on_cpu/library.cpp"]
HEADERS = [*ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/cuda/*.cuh"), *ROOT.glob("tests/cuda_on_cpu/*.h")]
FLAGS = ["-std=c++17", "-fPIC", "-shared", "-DFASTBERT_HOST_SHIM"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1"]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
# Shared memory of a block and of a multiprocessor, by compute capability.
SHARED_MEMORY = {80: (166912, 167936), 90: (232448, 233472)}


def cuda_include() -> Path | None:
    """The folder with CUDA's headers, or None where no toolkit is installed."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    homes += [str(Path(nvcc).resolve().parents[1])] if nvcc else []
    for home in homes:
        if home and (Path(home) / "include/cuda_bf16.h").exists():
            return Path(home) / "include"
    return None


def missing() -> str | None:
    """Why the library cannot be built here, or None."""
    if cuda_include() is None:
        return "the headers of the CUDA toolkit are not installed"
    if shutil.which("g++") is None:
        return "g++ is not installed"
    return None


def build(sanitize: bool = False) -> Path:
    """Compiles the library, once for each state of its sources, and returns its path."""
    flags = FLAGS + (["-O1", *SANITIZERS] if sanitize else ["-O2"])
    digest = hashlib.sha256(" ".join(flags).encode())
    for path in sorted(SOURCES + HEADERS):
        digest.update(path.read_bytes())
    library = ROOT / "build/cuda_on_cpu" / f"{digest.hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(f".{os.getpid()}")
        include = [f"-I{ROOT / 'tests/cuda_on_cpu'}", f"-I{ROOT / 'csrc'}", "-isystem", str(cuda_include())]
        command = ["g++", *flags, *include, "-x", "c++", *map(str, SOURCES), "-o", str(partial)]
        subprocess.run(command, check=True)
        partial.replace(library)
    return library


class ExitHeadWeights(ctypes.Structure):
    NAMES = (
        *("projection_weight", "projection_bias", "query", "query_bias"),
        *("value", "value_bias", "output_weight", "output_bias"),
    )
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES]


class ExitHeadShape(ctypes.Structure):
    NAMES = ("tokens", "batch", "hidden_size", "narrow_size", "num_heads", "num_labels")
    _fields_ = [(name, ctypes.c_int64) for name in NAMES]


class ExitHeadOutputs(ctypes.Structure):
    NAMES = ("logits", "uncertainty", "keep")
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES]


class PackedBatch(ctypes.Structure):
    NAMES = ("hidden", "cu_seqlens", "keep", "sample_index", "speed", "logits", "uncertainty")
    SIZES = ("batch", "tokens", "row_bytes", "num_labels", "layer")
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES] + [(name, ctypes.c_int64) for name in SIZES]


class CompactedBatch(ctypes.Structure):
    NAMES = ("hidden", "cu_seqlens", "sample_index", "speed", "counts")
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES]


class Results(ctypes.Structure):
    NAMES = ("logits", "uncertainty", "exit_layer")
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES]


def pointers(tensors: dict[str, torch.Tensor], names: tuple[str, ...]) -> list[int]:
    return [tensors[name].data_ptr() for name in names]


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor that holds what no kernel should leave behind: NaN, or -77 (77 in uint8)."""
    if dtype.is_floating_point:
        return torch.full(shape, float("nan"), dtype=dtype)
    return torch.full(shape, 77 if dtype == torch.uint8 else -77, dtype=dtype)


class CpuLibrary:
    """The launchers on CPU tensors. Every call allocates its outputs and poisons them."""

    def __init__(self, sanitize: bool = False):
        self._library = ctypes.CDLL(str(build(sanitize)))
        self._library.exit_head_unsupported.restype = ctypes.c_char_p
        for function in (self._library.launches, self._library.shared_bytes, self._library.bank_conflicts):
            function.restype = ctypes.c_int64
        self.configure()

    def configure(self, seed: int = 0, multiprocessors: int = 4, capability: int = 90) -> None:
        """Sets the order of warps and the device that the launchers see."""
        self._library.configure(seed, multiprocessors, *SHARED_MEMORY[capability])

    def launches(self) -> int:
        return self._library.launches()

    def shared_bytes(self) -> int:
        """Dynamic shared memory of the latest launch."""
        return self._library.shared_bytes()

    def bank_conflicts(self) -> int:
        """Rows of matrix loads in the latest launch that had to wait for another row."""
        return self._library.bank_conflicts()

    def device(self) -> int:
        return self._library.device()

    @staticmethod
    def _shape(hidden: torch.Tensor, cu_seqlens: torch.Tensor, weights: dict[str, torch.Tensor]) -> ExitHeadShape:
        heads, narrow = weights["query_bias"].shape
        labels = len(weights["output_bias"])
        return ExitHeadShape(len(hidden), len(cu_seqlens) - 1, hidden.shape[1], narrow, heads, labels)

    def exit_head_unsupported(self, dtype: torch.dtype, **sizes: int) -> str | None:
        shape = ExitHeadShape(tokens=16, batch=1, hidden_size=64, narrow_size=128, num_heads=2, num_labels=2)
        for name, size in sizes.items():
            setattr(shape, name, size)
        reason = self._library.exit_head_unsupported(ctypes.byref(shape), DTYPES[dtype])
        return None if reason is None else reason.decode()

    def exit_head(
        self,
        hidden: torch.Tensor,
        cu_seqlens: torch.Tensor,
        speed: torch.Tensor,
        weights: dict[str, torch.Tensor],
        device: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns logits [B, N], uncertainty [B] and keep [B]."""
        shape = self._shape(hidden, cu_seqlens, weights)
        logits = poisoned(shape.batch, shape.num_labels)
        uncertainty = poisoned(shape.batch)
        keep = poisoned(shape.batch, dtype=torch.uint8)
        status = self._library.exit_head(
            ctypes.c_void_p(hidden.data_ptr()),
            DTYPES[hidden.dtype],
            ctypes.c_void_p(cu_seqlens.data_ptr()),
            ctypes.c_void_p(speed.data_ptr()),
            ctypes.byref(ExitHeadWeights(*pointers(weights, ExitHeadWeights.NAMES))),
            ctypes.byref(shape),
            ctypes.byref(ExitHeadOutputs(logits.data_ptr(), uncertainty.data_ptr(), keep.data_ptr())),
            device,
        )
        assert status == 0, f"cudaError_t {status}"
        return logits, uncertainty, keep

    def compact(
        self, batch: dict[str, torch.Tensor], layer: int, original_batch: int, device: int = 0, poison_rows: bool = True
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Returns the compacted batch and the results, by name. Rows without poison cost no memory until written."""
        samples, labels = batch["logits"].shape
        rows, width = batch["hidden"].shape
        out = {
            "hidden": (poisoned if poison_rows else torch.empty)(rows, width, dtype=batch["hidden"].dtype),
            "cu_seqlens": poisoned(samples + 1, dtype=torch.int32),
            "sample_index": poisoned(samples, dtype=torch.int32),
            "speed": poisoned(samples),
            "counts": poisoned(2, dtype=torch.int32),
        }
        results = {
            "logits": poisoned(original_batch, labels),
            "uncertainty": poisoned(original_batch),
            "exit_layer": poisoned(original_batch, dtype=torch.int64),
        }
        row_bytes = width * batch["hidden"].element_size()
        sizes = (samples, rows, row_bytes, labels, layer)
        status = self._library.compact(
            ctypes.byref(PackedBatch(*pointers(batch, PackedBatch.NAMES), *sizes)),
            ctypes.byref(CompactedBatch(*pointers(out, CompactedBatch.NAMES))),
            ctypes.byref(Results(*pointers(results, Results.NAMES))),
            device,
        )
        assert status == 0, f"cudaError_t {status}"
        return out, results

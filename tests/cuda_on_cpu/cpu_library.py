"""Builds the CUDA sources for the CPU (see host_shim.h) and calls their launchers through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]
# What only asks the driver has nothing to run here.
KERNELS = [file for file in sorted(ROOT.glob("csrc/cuda/*.cu")) if file.name != "availability.cu"]
SOURCES = [*KERNELS, *sorted(ROOT.glob("tests/cuda_on_cpu/*.cpp"))]
HEADERS = [*ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/cuda/*.cuh"), *ROOT.glob("tests/cuda_on_cpu/*.h")]
FLAGS = ["-std=c++17", "-fPIC", "-DFASTBERT_HOST_SHIM"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1"]
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
    """Say why the library cannot be built here, or None."""
    if cuda_include() is None:
        return "the headers of the CUDA toolkit are not installed"
    if shutil.which("g++") is None:
        return "g++ is not installed"
    return None


def build(sanitize: bool = False) -> Path:
    """Compile what is not there yet for the present state of the sources, and return the library's path."""
    flags = FLAGS + (["-O0", *SANITIZERS] if sanitize else ["-O2"])
    include = [f"-I{ROOT / 'tests/cuda_on_cpu'}", f"-I{ROOT / 'csrc'}", "-isystem", str(cuda_include())]
    folder = ROOT / "build/cuda_on_cpu"
    folder.mkdir(parents=True, exist_ok=True)
    shared = hashlib.sha256(" ".join(flags).encode())
    for path in sorted(HEADERS):
        shared.update(path.name.encode() + path.read_bytes())

    def make(suffix: str, digest: str, command: list[str]) -> Path:
        target = folder / f"{digest[:16]}.{suffix}"
        if not target.exists():
            partial = target.with_suffix(f".{os.getpid()}.{suffix}")
            subprocess.run(["g++", *flags, *command, "-o", str(partial)], check=True)
            partial.replace(target)
        return target

    def compile_source(source: Path) -> Path:
        digest = hashlib.sha256(shared.digest() + source.read_bytes()).hexdigest()
        return make("o", digest, [*include, "-c", "-x", "c++", str(source)])

    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = [str(path) for path in pool.map(compile_source, SOURCES)]
    return make("so", hashlib.sha256(" ".join(objects).encode()).hexdigest(), ["-shared", *objects])


class AttentiveHeadWeights(ctypes.Structure):
    NAMES = (
        *("projection_weight", "projection_bias", "query", "query_bias"),
        *("value", "value_bias", "output_weight", "output_bias"),
    )
    OPTIONS = ("fold_dtype", "narrow_activation", "mlp_activation")
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES] + [(name, ctypes.c_int32) for name in OPTIONS]


class AttentiveHeadShape(ctypes.Structure):
    NAMES = ("tokens", "batch", "hidden_size", "narrow_size", "num_heads", "num_labels")
    _fields_ = [(name, ctypes.c_int64) for name in NAMES]


class PooledHeadWeights(ctypes.Structure):
    _fields_ = [
        ("num_layers", ctypes.c_int32),
        ("weight", ctypes.c_void_p * 3),
        ("bias", ctypes.c_void_p * 3),
        ("size", ctypes.c_int64 * 4),
        ("pooling", ctypes.c_int32),
        ("activation", ctypes.c_int32),
    ]


class DecisionFields(ctypes.Structure):
    NUMBERS = ("criterion", "parameter")
    _fields_ = [(name, ctypes.c_int32) for name in NUMBERS] + [("speed", ctypes.c_void_p), ("history", ctypes.c_void_p)]


class DecisionOutputs(ctypes.Structure):
    NAMES = ("logits", "uncertainty", "history", "keep")
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES]


@dataclass
class Decision:
    """What csrc/decision.h decides by."""

    speed: torch.Tensor
    criterion: str = "entropy"
    parameter: int = 0
    history: torch.Tensor | None = None

    def fields(self, criterion: int) -> DecisionFields:
        history = None if self.history is None else self.history.data_ptr()
        return DecisionFields(criterion, self.parameter, self.speed.data_ptr(), history)


class HeadOutputs(NamedTuple):
    """What a head writes: logits [B, N], uncertainty [B], history [B, 2] and keep [B]."""

    logits: torch.Tensor
    uncertainty: torch.Tensor
    history: torch.Tensor
    keep: torch.Tensor

    @classmethod
    def poisoned(cls, batch: int, labels: int) -> HeadOutputs:
        history = poisoned(batch, 2, dtype=torch.int32)
        return cls(poisoned(batch, labels), poisoned(batch), history, poisoned(batch, dtype=torch.uint8))

    def fields(self) -> DecisionOutputs:
        return DecisionOutputs(*(tensor.data_ptr() for tensor in self))


class PackedBatch(ctypes.Structure):
    NAMES = ("hidden", "cu_seqlens", "keep", "sample_index", "speed", "history", "logits", "uncertainty")
    SIZES = ("batch", "tokens", "row_bytes", "num_labels", "layer")
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES] + [(name, ctypes.c_int64) for name in SIZES]


class CompactedBatch(ctypes.Structure):
    NAMES = ("hidden", "cu_seqlens", "sample_index", "speed", "history", "counts")
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES]


class Results(ctypes.Structure):
    NAMES = ("logits", "uncertainty", "exit_layer")
    _fields_ = [*((name, ctypes.c_void_p) for name in NAMES), ("samples", ctypes.c_int64)]


class DepthStage(ctypes.Structure):
    _fields_ = [("graph", ctypes.c_void_p), ("samples", ctypes.c_void_p)]


def pointers(tensors: dict[str, torch.Tensor], names: tuple[str, ...]) -> list[int]:
    return [tensors[name].data_ptr() for name in names]


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor that holds what no kernel should leave behind: NaN, or -77 (77 in uint8)."""
    if dtype.is_floating_point:
        return torch.full(shape, float("nan"), dtype=dtype)
    return torch.full(shape, 77 if dtype == torch.uint8 else -77, dtype=dtype)


# What the library counts, in attributes of a `CpuLibrary` that are called; all but the first of the latest launch.
COUNTS = (
    "launches",
    "shared_bytes",  # dynamic ones
    "granted_shared_bytes",  # what its kernel may have
    "bank_conflicts",  # rows of matrix loads that had to wait for another row
    "matrix_products",  # instructions of the matrix units
)


class CpuLibrary:
    """The launchers on CPU tensors. Every call allocates its outputs and poisons them."""

    def __init__(self, sanitize: bool = False):
        self._library = ctypes.CDLL(str(build(sanitize)))
        self._devices = itertools.count(1)
        self._library.attentive_head_unsupported.restype = ctypes.c_char_p
        self._library.pooled_exit_head_unsupported.restype = ctypes.c_char_p
        self._library.depth_graph_unsupported.restype = ctypes.c_char_p
        self._library.make_stage.restype = ctypes.c_void_p
        for name in COUNTS:
            getattr(self._library, name).restype = ctypes.c_int64
            setattr(self, name, getattr(self._library, name))
        self.configure()

    def configure(self, seed: int = 0, multiprocessors: int = 4, capability: int = 90) -> None:
        """Set the order of warps and the device that the launchers see."""
        self._library.configure(seed, multiprocessors, *SHARED_MEMORY[capability])
        self._device = self.new_device()

    def new_device(self) -> int:
        """The number of a device that no launcher has asked about; they ask once for each."""
        return next(self._devices)

    def device(self) -> int:
        return self._library.device()

    def _number(self, enumeration: str, name: str) -> int:
        number = self._library.number_of(enumeration.encode(), name.encode())
        assert number >= 0, f"csrc/ has no {enumeration} {name}"
        return number

    def _dtype(self, dtype: torch.dtype) -> int:
        return self._number("DType", str(dtype).removeprefix("torch."))

    def _decision(self, decision: Decision) -> DecisionFields:
        return decision.fields(self._number("Criterion", decision.criterion))

    def _weights(self, weights: dict[str, torch.Tensor], activations: tuple[str, str]) -> AttentiveHeadWeights:
        options = [self._dtype(weights["query"].dtype), *(self._number("Activation", name) for name in activations)]
        return AttentiveHeadWeights(*pointers(weights, AttentiveHeadWeights.NAMES), *options)

    def attentive_head_unsupported(self, dtype: torch.dtype, fold_dtype=torch.float32, activation="tanh", **sizes: int):
        shape = AttentiveHeadShape(tokens=16, batch=1, hidden_size=64, narrow_size=128, num_heads=2, num_labels=2)
        for name, size in sizes.items():
            setattr(shape, name, size)
        weights = AttentiveHeadWeights(fold_dtype=self._dtype(fold_dtype))
        weights.narrow_activation = self._number("Activation", "tanh")
        weights.mlp_activation = self._number("Activation", activation)
        reason = self._library.attentive_head_unsupported(
            ctypes.byref(shape), ctypes.byref(weights), self._dtype(dtype)
        )
        return None if reason is None else reason.decode()

    def attentive_head(
        self,
        hidden: torch.Tensor,
        cu_seqlens: torch.Tensor,
        weights: dict[str, torch.Tensor],
        decision: Decision,
        activations: tuple[str, str] = ("tanh", "tanh"),
        device: int | None = None,
    ) -> HeadOutputs:
        """`activations` are those of the narrow layer and of the MLP."""
        heads, narrow = weights["query_bias"].shape
        batch, labels = len(cu_seqlens) - 1, len(weights["output_bias"])
        outputs = HeadOutputs.poisoned(batch, labels)
        status = self._library.attentive_head(
            ctypes.c_void_p(hidden.data_ptr()),
            self._dtype(hidden.dtype),
            ctypes.c_void_p(cu_seqlens.data_ptr()),
            ctypes.byref(self._weights(weights, activations)),
            ctypes.byref(AttentiveHeadShape(len(hidden), batch, hidden.shape[1], narrow, heads, labels)),
            ctypes.byref(self._decision(decision)),
            ctypes.byref(outputs.fields()),
            self._device if device is None else device,
        )
        assert status == 0, f"cudaError_t {status}"
        return outputs

    def pooled_exit_head_unsupported(self, dtype: torch.dtype, sizes: list[int]) -> str | None:
        weights = PooledHeadWeights(num_layers=len(sizes) - 1)
        weights.size[: min(len(sizes), 4)] = sizes[:4]
        reason = self._library.pooled_exit_head_unsupported(ctypes.byref(weights), self._dtype(dtype))
        return None if reason is None else reason.decode()

    def pooled_exit_head(
        self,
        hidden: torch.Tensor,
        cu_seqlens: torch.Tensor,
        layers: list[tuple[torch.Tensor, torch.Tensor]],
        pooling: str,
        activation: str,
        decision: Decision,
        device: int | None = None,
    ) -> HeadOutputs:
        """`layers` are weights [out, in] in the dtype of hidden and biases [out]."""
        weights = PooledHeadWeights(num_layers=len(layers), pooling=self._number("Pooling", pooling))
        weights.activation = self._number("Activation", activation)
        weights.size[0] = hidden.shape[1]
        for i, (weight, bias) in enumerate(layers):
            weights.weight[i], weights.bias[i], weights.size[i + 1] = weight.data_ptr(), bias.data_ptr(), len(bias)
        batch = len(cu_seqlens) - 1
        outputs = HeadOutputs.poisoned(batch, len(layers[-1][1]))
        status = self._library.pooled_exit_head(
            ctypes.c_void_p(hidden.data_ptr()),
            self._dtype(hidden.dtype),
            ctypes.c_int64(len(hidden)),
            ctypes.c_void_p(cu_seqlens.data_ptr()),
            ctypes.c_int64(batch),
            ctypes.byref(weights),
            ctypes.byref(self._decision(decision)),
            ctypes.byref(outputs.fields()),
            self._device if device is None else device,
        )
        assert status == 0, f"cudaError_t {status}"
        return outputs

    def compact(
        self,
        batch: dict[str, torch.Tensor],
        layer: int,
        original_batch: int,
        device: int | None = None,
        poison_rows: bool = True,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the compacted batch and the results, by name. Rows without poison cost no memory until written."""
        samples, labels = batch["logits"].shape
        rows, width = batch["hidden"].shape
        out = {
            "hidden": (poisoned if poison_rows else torch.empty)(rows, width, dtype=batch["hidden"].dtype),
            "cu_seqlens": poisoned(samples + 1, dtype=torch.int32),
            "sample_index": poisoned(samples, dtype=torch.int32),
            "speed": poisoned(samples),
            "history": poisoned(samples, 2, dtype=torch.int32),
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
            ctypes.byref(Results(*pointers(results, Results.NAMES), original_batch)),
            self._device if device is None else device,
        )
        assert status == 0, f"cudaError_t {status}"
        return out, results

    def depth_graph_unsupported(self, driver_version: int) -> str | None:
        self._library.set_driver_version(driver_version)
        reason = self._library.depth_graph_unsupported()
        return None if reason is None else reason.decode()

    def depth_graph(self, stage: Callable[[int], None], samples: torch.Tensor, fail_after: int = -1) -> DepthGraph:
        """Make a graph of len(samples) stages; `stage` is called with the number of each and writes its samples [1].
        The API call after `fail_after` calls fails."""
        callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(stage)
        graphs = [ctypes.c_void_p(self._library.make_stage(callback, number)) for number in range(len(samples))]
        stages = (DepthStage * len(samples))(
            *((graph.value, samples[number:].data_ptr()) for number, graph in enumerate(graphs))
        )
        executable = ctypes.c_void_p()
        self._library.fail_after(fail_after)
        status = self._library.make_depth_graph(stages, ctypes.c_int64(len(samples)), 0, ctypes.byref(executable))
        self._library.fail_after(-1)
        for graph in graphs:  # the graph has copies of its own
            self._library.cudaGraphDestroy(graph)
        return DepthGraph(self._library, executable, status, callback)

    def live_graphs(self) -> int:
        """Graphs and executables that nobody destroyed."""
        return self._library.live()


@dataclass
class DepthGraph:
    """A graph of all stages; `status` is 0 or the CUDA error that its making ended with."""

    library: ctypes.CDLL
    executable: ctypes.c_void_p
    status: int
    callback: object  # kept alive

    def launch(self) -> None:
        assert self.library.launch_depth_graph(self.executable, 0) == 0

    def destroy(self) -> None:
        assert self.library.destroy_depth_graph(self.executable) == 0

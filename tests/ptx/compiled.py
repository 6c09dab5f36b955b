"""The CUDA kernels and their launchers as nvcc compiles them: the kernels to PTX, the launchers to code that runs here
and tells which kernel it would launch, how, and with what parameters."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from ptx_interpreter import Finding, GlobalMemory, Machine, Module

from cuda_on_cpu.cpu_library import SHARED_MEMORY, cuda_include

ROOT = Path(__file__).resolve().parents[2]
RECORDER = Path(__file__).with_name("recorder.cpp")
FLAGS = ["-std=c++17", "-O3", "-gencode=arch=compute_80,code=compute_80", "-Xcompiler=-fPIC,-O0"]
CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)
)


def nvcc() -> str | None:
    include = cuda_include()
    beside = None if include is None else shutil.which("nvcc", path=str(include.parent / "bin"))
    return shutil.which("nvcc") or beside


def missing() -> str | None:
    """Say why the kernels cannot be compiled here, or return None."""
    if nvcc() is None:
        return "nvcc is not installed"
    return None if shutil.which("g++") else "g++ is not installed"


class Launch(NamedTuple):
    """What a launcher asks the CUDA runtime for."""

    kernel: str
    blocks: int
    threads: int
    shared_bytes: int
    parameters: bytes


class Launcher:
    """A launcher of csrc/cuda and the kernels it can launch, which `run` runs in the interpreter."""

    def __init__(self, name: str) -> None:
        folder = _build(name)
        self._module = Module((folder / "kernels.ptx").read_text())
        self._library = ctypes.CDLL(str(folder / "launcher.so"))
        address = ctypes.c_void_p.in_dll(self._library, "launcher").value
        assert address is not None
        self._function = ctypes.CFUNCTYPE(ctypes.c_int)(address)
        self._launches: list[Launch] = []
        self._devices: dict[tuple[int, int], int] = {}  # launchers ask once about each number
        self._callback = CALLBACK(self._record)
        self._machine = functools.lru_cache(maxsize=None)(
            lambda kernel, threads: Machine(self._module.kernel(kernel), threads)
        )

    def ask(self, *arguments: Any, multiprocessors: int = 4, capability: int = 80) -> list[Launch]:
        """Call the launcher, with the arguments before device and stream; returns the launches it asks for.

        Args:
            arguments: ctypes values and structures; structures go by reference.
            multiprocessors: how many the device has that the launcher sees.
            capability: the compute capability whose shared memory it has.
        """
        self._launches = []
        self._library.configure(self._callback, multiprocessors, *SHARED_MEMORY[capability])
        device = self._devices.setdefault((multiprocessors, capability), len(self._devices))
        passed = [ctypes.byref(a) if isinstance(a, ctypes.Structure) else a for a in arguments]
        status = self._function(*passed, ctypes.c_int(device), ctypes.c_void_p(None))
        assert status == 0, f"cudaError_t {status}"
        return self._launches

    def run(self, memory: GlobalMemory, launch: Launch, seed: int | None = None) -> list[Finding]:
        machine = self._machine(launch.kernel, launch.threads)
        return machine.run(memory, launch.parameters, (launch.blocks,), launch.shared_bytes, seed)

    def _record(self, kernel: bytes, blocks: int, threads: int, shared_bytes: int, arguments: Any) -> None:
        name = kernel.decode()
        parsed = self._module.kernel(name)
        parameters = bytearray()
        for argument, (begin, size) in enumerate(zip(parsed.parameters.values(), parsed.parameter_sizes, strict=True)):
            parameters += bytes(begin - len(parameters)) + ctypes.string_at(arguments[argument], size)
        self._launches.append(Launch(name, blocks, threads, shared_bytes, bytes(parameters)))


def number_of(enumeration: str, name: str) -> int:
    """Return the value of a name in an enumeration of csrc/."""
    for header in sorted(ROOT.glob("csrc/*.h")):
        if match := re.search(rf"enum class {enumeration} : int32_t {{([^}}]*)}}", header.read_text()):
            return [one.strip() for one in match[1].split(",")].index(name)
    raise ValueError(f"csrc/ has no enumeration {enumeration}")


def _sources(path: Path, seen: dict[Path, bytes]) -> dict[Path, bytes]:
    """Return the file and all that it includes from csrc/."""
    if path not in seen:
        seen[path] = path.read_bytes()
        for name in re.findall(r'^#include "(.+)"', seen[path].decode(), re.M):
            candidates = [folder / name for folder in (path.parent, ROOT / "csrc") if (folder / name).exists()]
            if candidates:
                _sources(candidates[0].resolve(), seen)
    return seen


def _build(name: str) -> Path:
    """Compile what is not there yet for the present state of the sources, and return the folder."""
    source = ROOT / f"csrc/cuda/{name}.cu"
    digest = hashlib.sha256(" ".join(FLAGS).encode() + RECORDER.read_bytes())
    for path, text in sorted(_sources(source, {}).items()):
        digest.update(path.name.encode() + text)
    folder = ROOT / "build/ptx" / f"{name}-{digest.hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:  # other processes of the same run wait for this one
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _compile(source, folder)
    return folder


def _compile(source: Path, folder: Path) -> None:
    include = f"-I{ROOT / 'csrc'}"
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary)
        target, library = made / "launcher.o", made / "result/launcher.so"
        library.parent.mkdir()
        command = [str(nvcc()), *FLAGS, include, "--keep", f"--keep-dir={made}", "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        (made / f"{source.stem}.ptx").rename(library.with_name("kernels.ptx"))
        command = ["g++", "-std=c++17", "-shared", "-fPIC", include, f"-I{cuda_include()}", f"-DLAUNCHER={source.stem}"]
        command += [f'-DHEADER="{source.stem}.h"', str(RECORDER), str(target), "-o", str(library)]
        subprocess.run(command, check=True)
        library.parent.rename(folder)

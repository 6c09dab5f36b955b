"""The CUDA kernels compiled for every architecture: no warnings, no spills, registers and shared memory in bounds."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = [80, 90, 100]
THREADS = 256
# Blocks of a kernel that must fit the 65,536 registers of a multiprocessor.
BLOCKS_PER_MULTIPROCESSOR = {"exit_head": 2, "pooled_exit_head": 2, "compact": 4, "depth_graph": 4}
# dtypes x narrow sizes + dtypes (without projection); dtypes x sizes of a group; widths of an access; a single thread
VARIANTS = {"exit_head": 12, "pooled_exit_head": 12, "compact": 3, "depth_graph": 1}
STATIC_SHARED_LIMIT = 48 * 1024

nvcc = shutil.which("nvcc")
pytestmark = pytest.mark.skipif(nvcc is None, reason="nvcc is not on PATH")


@dataclass
class Kernel:
    name: str
    architecture: int
    stack: int
    spills: int
    registers: int
    shared: int


@dataclass
class Compiled:
    kernels: list[Kernel]
    sass: str | None  # None where there is no disassembler


def parse(log: str) -> list[Kernel]:
    """The kernels that `ptxas -v` reports on."""
    kernels = []
    for report in log.split("Compiling entry function '")[1:]:
        name, architecture = re.match(r"(\w+)' for 'sm_(\d+)'", report).groups()
        sizes = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
        stack, stores, loads = sizes.groups()
        registers = re.search(r"Used (\d+) registers", report).group(1)
        shared = re.search(r"(\d+) bytes smem", report)
        spills = int(stores) + int(loads)
        size = int(shared.group(1)) if shared else 0
        kernels.append(Kernel(name, int(architecture), int(stack), spills, int(registers), size))
    return kernels


def disassembler() -> dict[str, str] | None:
    """An environment in which cuobjdump and nvdisasm are on PATH: the toolkit's, or those of the PyPI packages."""
    folders = os.environ["PATH"].split(os.pathsep)
    nvidia = importlib.util.find_spec("nvidia")
    for location in nvidia.submodule_search_locations or [] if nvidia else []:
        folders += [str(path.parent) for path in Path(location).glob("*/bin/cuobjdump")]
    path = os.pathsep.join(folders)
    if shutil.which("cuobjdump", path=path) and shutil.which("nvdisasm", path=path):
        return os.environ | {"PATH": path}
    return None


def compile_source(name: str, architecture: int, object_file: Path) -> Compiled:
    command = [nvcc, "-O3", "-std=c++17", "-Werror", "all-warnings", "-Xptxas", "-v", "-c", "-o", str(object_file)]
    command += [f"-gencode=arch=compute_{architecture},code=sm_{architecture}", str(ROOT / f"csrc/cuda/{name}.cu")]
    run = subprocess.run(command, capture_output=True, text=True)
    log = run.stdout + run.stderr
    assert run.returncode == 0, log
    environment = disassembler()
    if environment is None:
        return Compiled(parse(log), None)
    dump = ["cuobjdump", "-sass", str(object_file)]
    sass = subprocess.run(dump, check=True, capture_output=True, text=True, env=environment).stdout
    return Compiled(parse(log), sass)


@pytest.fixture(scope="module")
def compilations(tmp_path_factory) -> dict[tuple[str, int], Future[Compiled]]:
    """All sources for all architectures, two at a time."""
    folder = tmp_path_factory.mktemp("cuda")
    pool = ThreadPoolExecutor(max_workers=2)
    return {
        (name, architecture): pool.submit(compile_source, name, architecture, folder / f"{name}.{architecture}.o")
        for name in VARIANTS
        for architecture in ARCHITECTURES
    }


@pytest.fixture(params=[(name, architecture) for name in VARIANTS for architecture in ARCHITECTURES], ids=str)
def compiled(request, compilations) -> tuple[str, Compiled]:
    return request.param[0], compilations[request.param].result()


def test_no_source_is_left_out():
    assert {path.stem for path in ROOT.glob("csrc/cuda/*.cu")} == set(VARIANTS)


def test_all_kernels_are_there(compiled):
    name, result = compiled
    assert len(result.kernels) == VARIANTS[name]


def test_nothing_spills(compiled):
    for kernel in compiled[1].kernels:
        assert kernel.stack == 0 and kernel.spills == 0, kernel


def test_registers_leave_room_for_the_blocks(compiled):
    name, result = compiled
    for kernel in result.kernels:
        allocated = (kernel.registers + 7) // 8 * 8  # a warp's registers come in steps of 256
        assert allocated * THREADS * BLOCKS_PER_MULTIPROCESSOR[name] <= 65536, kernel


def test_static_shared_memory(compiled):
    name, result = compiled
    for kernel in result.kernels:
        assert kernel.shared <= (STATIC_SHARED_LIMIT if name == "compact" else 0), kernel  # the others' is dynamic


def test_instructions(compiled):
    """Matrix units and asynchronous copies where they should be, and accesses of 16 bytes everywhere."""
    name, result = compiled
    if result.sass is None:
        pytest.skip("neither the toolkit's cuobjdump and nvdisasm nor their PyPI packages are installed")
    kernels = {part.split("\n", 1)[0]: part for part in result.sass.split("Function : ")[1:]}
    assert len(kernels) == VARIANTS[name]
    for kernel, code in kernels.items():
        matrix_units = {"bfloat16": "HMMA.16816.F32.BF16", "half": "HMMA.16816.F32 "}
        used = [dtype for dtype, instruction in matrix_units.items() if instruction in code]
        projects = name == "exit_head" and "linear" not in kernel
        assert used == [dtype for dtype in matrix_units if dtype in kernel and projects], kernel
        assert ("LDGSTS" in code) == (name == "exit_head"), kernel  # copies to shared memory
        if name in ("exit_head", "pooled_exit_head") or "uint4" in kernel:
            assert re.search(r"LDG(STS)?\.E(\.\w+)*\.128", code), kernel

"""The CUDA kernels compiled for every architecture: no warnings, no spills, registers and shared memory in bounds."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = [80, 90, 100]
THREADS = 256
# Blocks of a kernel that must fit the 65,536 registers of a multiprocessor.
BLOCKS_PER_MULTIPROCESSOR = {"exit_head": 2, "compact": 4}
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
    object_file: Path
    log: str
    kernels: list[Kernel]


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


@pytest.fixture(scope="module", params=["exit_head", "compact"])
def compiled(request, tmp_path_factory) -> tuple[str, Compiled]:
    object_file = tmp_path_factory.mktemp("cuda") / f"{request.param}.o"
    command = [nvcc, "-O3", "-std=c++17", "-Werror", "all-warnings", "-Xptxas", "-v", "-c", "-o", str(object_file)]
    command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    run = subprocess.run([*command, str(ROOT / f"csrc/cuda/{request.param}.cu")], capture_output=True, text=True)
    log = run.stdout + run.stderr
    assert run.returncode == 0, log
    return request.param, Compiled(object_file, log, parse(log))


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


def test_all_kernels_are_there(compiled):
    name, result = compiled
    variants = {"exit_head": 9, "compact": 3}[name]  # dtypes x narrow sizes; widths of an access
    for architecture in ARCHITECTURES:
        assert len([k for k in result.kernels if k.architecture == architecture]) == variants


def test_nothing_spills(compiled):
    for kernel in compiled[1].kernels:
        assert kernel.stack == 0 and kernel.spills == 0, kernel


def test_registers_leave_room_for_the_blocks(compiled):
    name, result = compiled
    for kernel in result.kernels:
        allocated = (kernel.registers + 7) // 8 * 8  # a warp's registers come in steps of 256
        assert allocated * THREADS * BLOCKS_PER_MULTIPROCESSOR[name] <= 65536, kernel


def test_static_shared_memory(compiled):
    for kernel in compiled[1].kernels:
        assert kernel.shared <= STATIC_SHARED_LIMIT, kernel


def test_matrix_units_are_used(compiled):
    name, result = compiled
    if name != "exit_head":
        pytest.skip("compaction multiplies nothing")
    environment = disassembler()
    if environment is None:
        pytest.skip("neither the toolkit's cuobjdump and nvdisasm nor their PyPI packages are installed")
    for architecture in ARCHITECTURES:
        command = ["cuobjdump", "-sass", "-arch", f"sm_{architecture}", str(result.object_file)]
        sass = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        kernels = {part.split("\n", 1)[0]: part for part in sass.split("Function : ")[1:]}
        assert len(kernels) == 9
        for kernel, code in kernels.items():
            instruction = {"bfloat16": "HMMA.16816.F32.BF16", "half": "HMMA.16816.F32 "}
            used = [name for name, text in instruction.items() if text in code]
            assert used == [name for name in instruction if name in kernel], kernel
            assert "LDGSTS" in code, kernel  # copies to shared memory are asynchronous

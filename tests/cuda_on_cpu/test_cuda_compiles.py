"""The CUDA kernels as the compiled module holds them, for every architecture: no spills, registers and shared memory in
bounds, and the instructions they are written for. scripts/check_install.sh sees that they compile without a warning.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastbert_kernels import _extension

pytestmark = pytest.mark.proof

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = [80, 90, 100]
SYSTEM_SHARED = {80: 0, 90: 1024, 100: 1024}  # bytes of every block that are not the kernel's
THREADS = 256
# dtypes x narrow sizes; dtypes; dtypes x sizes of a group; widths of an access; a single thread
VARIANTS = {"attentive_head": 9, "linear_attentive_head": 3, "pooled_exit_head": 12, "compact": 3, "decide_next": 1}
VARIANTS |= {"nothing": 1}  # to see whether a kernel loads
# Blocks of a kernel that must fit the 65,536 registers of a multiprocessor.
BLOCKS_PER_MULTIPROCESSOR = {
    "attentive_head": 2,
    "linear_attentive_head": 2,
    "pooled_exit_head": 2,
    "compact": 4,
    "decide_next": 4,
    "nothing": 4,
}
STATIC_SHARED_LIMIT = 48 * 1024
FUNCTION = re.compile(
    r"\d((?:linear_)?attentive_head|pooled_exit_head|compact|decide_next|nothing)(?:_kernel)?[IE]"
)  # in a mangled name


@dataclass
class Kernel:
    name: str
    architecture: int
    stack: int
    local: int
    registers: int
    shared: int


def tools() -> dict[str, str]:
    """Return an environment with cuobjdump and nvdisasm on PATH: the toolkit's, or those of the PyPI packages."""
    folders = os.environ["PATH"].split(os.pathsep)
    nvidia = importlib.util.find_spec("nvidia")
    for location in nvidia.submodule_search_locations or [] if nvidia else []:
        folders += [str(path.parent) for path in Path(location).glob("*/bin/cuobjdump")]
    path = os.pathsep.join(folders)
    if not (shutil.which("cuobjdump", path=path) and shutil.which("nvdisasm", path=path)):
        pytest.skip("neither the toolkit's cuobjdump and nvdisasm nor their PyPI packages are installed")
    return os.environ | {"PATH": path}


@pytest.fixture(scope="module")
def module() -> Path:
    """The compiled module, which is to hold the kernels that are in the work tree."""
    native, detail = _extension.load()
    if native is None:
        pytest.skip(detail)
    if native.cuda_version is None:
        pytest.skip("the compiled module has no CUDA kernels: nvcc was not found when it was built")
    path = Path(native.__file__)
    newer = [source.name for source in ROOT.glob("csrc/**/*.cu*") if source.stat().st_mtime > path.stat().st_mtime]
    assert not newer, f"{', '.join(newer)} changed after {path.name} was built: run make setup"
    return path


def dump(option: str, module: Path) -> dict[int, str]:
    """Return what cuobjdump says of each architecture's machine code."""
    text = subprocess.run(
        ["cuobjdump", option, str(module)], check=True, capture_output=True, text=True, env=tools()
    ).stdout
    result: dict[int, str] = defaultdict(str)
    for part in text.split("Fatbin elf code:")[1:]:
        result[int(re.search(r"arch = sm_(\d+)", part).group(1))] += part.partition("Fatbin ptx code:")[0]
    return result


def by_function(named: list) -> dict[str, list]:
    """Sort (mangled name of a kernel, something) by the function that the kernel is a variant of."""
    result: dict[str, list] = defaultdict(list)
    for name, value in named:
        found = FUNCTION.search(name)
        result[found.group(1) if found else name].append(value)
    return result


@pytest.fixture(scope="module", params=ARCHITECTURES)
def kernels(request, module) -> dict[str, list[Kernel]]:
    """Resources of the variants of each kernel on one architecture."""
    pattern = r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)"
    found = re.findall(pattern, dump("-res-usage", module)[request.param])
    return by_function(
        [
            (name, Kernel(name, request.param, int(stack), int(local), int(registers), int(shared)))
            for name, registers, stack, shared, local in found
        ]
    )


@pytest.fixture(scope="module")
def machine_code(module) -> dict[int, str]:
    return dump("-sass", module)


def test_every_architecture_is_there(module):
    assert sorted(dump("-res-usage", module)) == ARCHITECTURES


def test_all_kernels_are_there(kernels):
    assert {name: len(found) for name, found in kernels.items()} == VARIANTS


def test_nothing_spills(kernels):
    """A spilled register lives on the stack."""
    for kernel in (kernel for found in kernels.values() for kernel in found):
        assert kernel.stack == 0 and kernel.local == 0, kernel


def test_registers_leave_room_for_the_blocks(kernels):
    for name, found in kernels.items():
        for kernel in found:
            allocated = (kernel.registers + 7) // 8 * 8  # a warp's registers come in steps of 256
            assert allocated * THREADS * BLOCKS_PER_MULTIPROCESSOR[name] <= 65536, kernel


def test_static_shared_memory(kernels):
    for name, found in kernels.items():
        for kernel in found:
            limit = STATIC_SHARED_LIMIT if name == "compact" else 0  # the others' is dynamic
            assert kernel.shared - SYSTEM_SHARED[kernel.architecture] <= limit, kernel


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_instructions(machine_code, architecture):
    """Matrix units and asynchronous copies where they should be, and accesses of 16 bytes everywhere."""
    parts = machine_code[architecture].split("Function : ")[1:]
    functions = by_function([(part, part.split("\n", 1)) for part in parts])
    assert {name: len(codes) for name, codes in functions.items()} == VARIANTS
    for name, codes in functions.items():
        for kernel, code in codes:
            matrix_units = {"bfloat16": "HMMA.16816.F32.BF16", "half": "HMMA.16816.F32 "}
            used = [dtype for dtype, instruction in matrix_units.items() if instruction in code]
            assert used == [dtype for dtype in matrix_units if dtype in kernel and name == "attentive_head"], kernel
            assert ("LDGSTS" in code) == (name in ("attentive_head", "linear_attentive_head")), (
                kernel
            )  # copies to shared memory
            if "head" in name or "uint4" in kernel:
                assert re.search(r"LDG(STS)?\.E(\.\w+)*\.128", code), kernel

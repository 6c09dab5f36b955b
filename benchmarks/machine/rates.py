"""The machine's own rates: products in registers, by unit, and reads of memory, with all threads at once.

The probes are C++ of their own, compiled here with the compiler at hand. A product of a matrix library is no measure of
the machine (it may itself reach half of it, and in int8 there is none), and a function of the compiled module that only
benchmarks call would be shipped to everybody.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from families import CPUINFO, flags_of

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
MEMORY = "memory"
_MEMORY_BYTES = 256 << 20  # far larger than the caches that a few cores of a server get
# Of one measurement: about 10 ms at the rates of today's processors, two vector products or a 16th of a tile a clock.
_VECTOR_STEPS, _TILE_STEPS = 5_000_000, 400_000
_TILE_OPERAND = 3  # any byte that is not zero; as bfloat16 a tiny number


@dataclass(frozen=True)
class Unit:
    """A unit that multiplies.

    Attributes:
        name: as in results; also of its probe.
        dtypes: of the products that it is for.
        flag: of /proc/cpuinfo.
        operations: 2 per multiply-add, of a step of its probe.
    """

    name: str
    dtypes: tuple[str, ...]
    flag: str
    operations: int

    @property
    def is_tiles(self) -> bool:
        return self.name.startswith("tiles")


# bfloat16 without a unit for it is float32 on rounded numbers.
UNITS = (
    Unit("avx2_float32", ("float32", "bfloat16"), "fma", 12 * 8 * 2),
    Unit("avx2_int8", ("int8",), "avx2", 12 * 16 * 2),
    Unit("avx512_float32", ("float32", "bfloat16"), "avx512f", 12 * 16 * 2),
    Unit("avx512_bfloat16", ("bfloat16",), "avx512_bf16", 12 * 32 * 2),
    Unit("avx512_int8", ("int8",), "avx512_vnni", 12 * 64 * 2),
    Unit("tiles_bfloat16", ("bfloat16",), "amx_bf16", 4 * 16 * 16 * 32 * 2),
    Unit("tiles_int8", ("int8",), "amx_int8", 4 * 16 * 16 * 64 * 2),
)


def compile_probes(library: Path, *, tile_model: bool = False) -> ctypes.CDLL:
    """Compile the probes into `library` and load them.

    Args:
        library: the file to write.
        tile_model: with the tiles of tests/tile_model instead of the processor's.

    Raises:
        RuntimeError: there is no compiler, or it says why it cannot.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise RuntimeError("the machine's rates need a C++ compiler: install one, or name it in CXX")
    system = ROOT / ("tests/tile_model" if tile_model else "csrc/cpu") / "tile_system.cpp"
    sources = [FOLDER / "vector_probes.cpp", FOLDER / "tile_probes.cpp", ROOT / "csrc/cpu/tiles.cpp", system]
    options = ["-O3", "-std=c++17", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}"]
    if tile_model:
        options += ["-DFASTBERT_TILE_MODEL", f"-I{ROOT / 'tests/tile_model'}"]
    run = subprocess.run(
        [compiler, *options, *map(str, sources), "-o", str(library)], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise RuntimeError(f"{compiler} cannot compile the probes in {FOLDER}:\n{run.stderr}")
    probes = ctypes.CDLL(str(library))
    probes.tiles_refused.restype = ctypes.c_char_p
    return probes


class MachineRates:
    """Probes of all units that this machine has, for as many threads as torch has.

    Attributes:
        refused: by unit, why it cannot be measured although the processor has it.
    """

    def __init__(self, probes: ctypes.CDLL) -> None:
        self._probes = probes
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads)
        self._memory = torch.ones(_MEMORY_BYTES, dtype=torch.uint8)
        self.refused: dict[str, str] = {}
        flags = flags_of(CPUINFO.read_text() if CPUINFO.exists() else "")
        self._units: list[Unit] = []
        for unit in UNITS:
            if unit.flag not in flags:
                continue
            if (reason := self._reason_against(unit)) is not None:
                self.refused[unit.name] = reason
                continue
            self._units.append(unit)
        self.measure()  # the first instructions of a wide unit run slowly

    def measure(self) -> dict[str, float]:
        """Return operations per second of every unit by its name, and under `memory` bytes read per second."""
        found = {unit.name: self._rate(unit) for unit in self._units}
        part = _MEMORY_BYTES // self._threads // 128 * 128
        begin = self._memory.data_ptr()

        def read(thread: int) -> None:
            self._probes.read_memory(ctypes.c_void_p(begin + thread * part), ctypes.c_int64(part))

        return {**found, MEMORY: self._threads * part / self._time(read)}

    def _reason_against(self, unit: Unit) -> str | None:
        if not hasattr(self._probes, unit.name):
            return "the compiler does not know it"
        if not unit.is_tiles:
            return None
        reasons = set(self._pool.map(lambda _: self._probes.tiles_refused(), range(self._threads)))
        return next((reason.decode() for reason in reasons if reason is not None), None)

    def _rate(self, unit: Unit) -> float:
        probe = getattr(self._probes, unit.name)
        steps = _TILE_STEPS if unit.is_tiles else _VECTOR_STEPS
        arguments = [ctypes.c_int64(steps), *[ctypes.c_uint8(_TILE_OPERAND)] * unit.is_tiles]
        return self._threads * steps * unit.operations / self._time(lambda _: probe(*arguments))

    def _time(self, work: Callable[[int], object]) -> float:
        """Return the seconds until all threads have done their part; ctypes lets go of the interpreter's lock."""
        begin = time.perf_counter()
        list(self._pool.map(work, range(self._threads)))
        return time.perf_counter() - begin


def unit_for(dtype: str, rates: dict[str, float]) -> str:
    """Return the name of the fastest unit for products of this dtype among those that were measured."""
    names = [unit.name for unit in UNITS if dtype in unit.dtypes and unit.name in rates]
    return max(names, key=rates.__getitem__)

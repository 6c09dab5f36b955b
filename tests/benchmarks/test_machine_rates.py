"""The probes of the machine's rates compute what they say, tiles included, which are modelled in C++ here."""

from __future__ import annotations

import ctypes
import shutil

import pytest

from families import CPUINFO, flags_of
from machine import rates

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
    pytest.mark.skipif("avx2" not in flags_of(CPUINFO.read_text() if CPUINFO.exists() else ""), reason="needs AVX2"),
]


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    return rates.compile_probes(tmp_path_factory.mktemp("probes") / "probes.so")


@pytest.fixture(scope="module")
def modelled(tmp_path_factory):
    return rates.compile_probes(tmp_path_factory.mktemp("probes") / "modelled.so", tile_model=True)


@pytest.fixture
def short(monkeypatch):
    for name, value in (("_VECTOR_STEPS", 1000), ("_TILE_STEPS", 2), ("_MEMORY_BYTES", 1 << 16)):
        monkeypatch.setattr(rates, name, value)


def with_flags(monkeypatch, path, *added):
    path.write_text(f"flags : {' '.join([*flags_of(CPUINFO.read_text()), *added])}\n")
    monkeypatch.setattr(rates, "CPUINFO", path)


def test_tile_probes_multiply_as_counted(modelled):
    steps, operand = 3, 0x42  # bytes 0x42 0x42 are 48.5 in bfloat16
    modelled.tiles_int8.restype, modelled.tiles_bfloat16.restype = ctypes.c_int32, ctypes.c_float
    arguments = ctypes.c_int64(steps), ctypes.c_uint8(operand)
    assert modelled.tiles_int8(*arguments) == steps * 64 * operand**2
    assert modelled.tiles_bfloat16(*arguments) == steps * 32 * 48.5**2
    counted = {unit.name: unit.operations for unit in rates.UNITS}
    assert counted["tiles_int8"] == 2 * counted["tiles_bfloat16"] == 4 * 2 * 16 * 16 * 64


def test_vector_probes_multiply_as_counted(probes):
    probes.avx2_float32.restype, probes.avx2_int8.restype = ctypes.c_float, ctypes.c_int32
    first = [float(i) for i in range(12)]
    want = sum(0.999 * (0.999 * value + 0.001) + 0.001 for value in first)
    assert probes.avx2_float32(ctypes.c_int64(2)) == pytest.approx(want, rel=1e-5)
    assert probes.avx2_int8(ctypes.c_int64(2)) == 0 + 1 + 2 + 3 + 2 * 12 * 2 * 77 * -5


def test_memory_probe_reads_every_byte(probes):
    probes.read_memory.restype = ctypes.c_int64
    memory = (ctypes.c_uint64 * 96)(*range(96))
    assert probes.read_memory(memory, ctypes.c_int64(768)) == sum(range(96))


def test_rates_of_this_machine(probes, short):
    measured = rates.MachineRates(probes).measure()
    assert {"avx2_float32", "avx2_int8", "memory"} <= set(measured) and min(measured.values()) > 0
    assert rates.unit_for("bfloat16", measured) in measured


def test_tiles_are_measured_where_there_are_some(monkeypatch, tmp_path, modelled, short):
    with_flags(monkeypatch, tmp_path / "cpuinfo", "amx_bf16", "amx_int8")
    machine = rates.MachineRates(modelled)
    assert machine.refused == {} and {"tiles_bfloat16", "tiles_int8"} <= set(machine.measure())


def test_tiles_that_are_refused_are_not_used(monkeypatch, tmp_path, probes, short):
    if "amx_tile" in flags_of(CPUINFO.read_text()):
        pytest.skip("this processor has tiles")
    with_flags(monkeypatch, tmp_path / "cpuinfo", "amx_bf16", "amx_int8")
    machine = rates.MachineRates(probes)
    reason = "this processor has no AMX"
    assert machine.refused == {"tiles_bfloat16": reason, "tiles_int8": reason}
    assert not any(name.startswith("tiles") for name in machine.measure())


def test_fastest_unit_of_a_dtype():
    measured = {"avx2_float32": 5.0, "avx512_float32": 9.0, "avx512_bfloat16": 8.0, "avx2_int8": 7.0, "memory": 99.0}
    assert rates.unit_for("float32", measured) == rates.unit_for("bfloat16", measured) == "avx512_float32"
    assert rates.unit_for("int8", measured) == "avx2_int8"


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="need a C\\+\\+ compiler: install one, or name it in CXX"):
        rates.compile_probes(tmp_path / "probes.so")

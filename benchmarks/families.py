"""Processor families: results of like processors have one file, and the documents show a column for each."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
_VENDORS = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
_UNITS = {"amx_tile": "amx", "avx512f": "avx512", "avx2": "avx2"}  # flag of the system: name; the widest first
# By vendor, number of the family and unit: generations whose results are not those of others with the same flags. AMD's
# family 25 multiplies 512 bits as two halves, at half the rate of its successors.
_GENERATIONS = {("amd", "25", "avx512"): "zen4"}
_GENERATIONS_IN_WORDS = {"zen4": "Zen 4"}
_UNITS_IN_WORDS = {"amx": "AMX", "avx512": "AVX-512", "avx2": "AVX2"}


def processor_family(cpuinfo: str) -> str:
    """Return the short name of a processor's family: its vendor and the widest unit that it multiplies in, and between
    them a generation that multiplies otherwise in this unit.

    Args:
        cpuinfo: the text of Linux's /proc/cpuinfo; empty on another system.

    Returns:
        `amd_zen4_avx512` or `intel_amx`, say; `portable` stands for a unit that the kernels have nothing special for.
    """
    vendor = _field(cpuinfo, "vendor_id") or platform.machine()
    flags = flags_of(cpuinfo)
    unit = next((name for flag, name in _UNITS.items() if flag in flags), "portable")
    name = _VENDORS.get(vendor, vendor.lower())
    generation = _GENERATIONS.get((name, _field(cpuinfo, "cpu family"), unit))
    return f"{name}_{generation}_{unit}" if generation else f"{name}_{unit}"


def flags_of(cpuinfo: str) -> set[str]:
    """Return what a processor can do, in the words of /proc/cpuinfo."""
    return set(_field(cpuinfo, "flags").split())


def _field(cpuinfo: str, wanted: str) -> str:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == wanted:
            return value.strip()
    return ""


def result_name(benchmark: str, device: str = "cpu") -> str:
    """Return the name, without an ending, of the result files that a benchmark writes on this machine.

    Args:
        benchmark: its own name.
        device: `cpu` or `cuda`; on a GPU the processor does not matter.
    """
    if device != "cpu":
        return f"{benchmark}_{device}"
    return f"{benchmark}_cpu_{processor_family(CPUINFO.read_text() if CPUINFO.exists() else '')}"


def results_by_family(folder: Path, benchmark: str) -> dict[str, dict[str, Any]]:
    """Return the results of a benchmark on processors, by the name of the family, in the order of names."""
    start = f"{benchmark}_cpu_"
    files = sorted(folder.glob(f"{start}*.json"))
    return {path.stem.removeprefix(start): json.loads(path.read_text(encoding="utf-8")) for path in files}


def unit_in_words(extensions: Collection[str]) -> str:
    """Return ", " and the widest unit of a processor by its extensions; "" where it has none of ours."""
    known = (words for unit, words in _UNITS_IN_WORDS.items() if any(name.startswith(unit) for name in extensions))
    return next((f", {words}" for words in known), "")


def processor_of(family: str, result: dict[str, Any]) -> str:
    """Return the processor that `result`, of a family, is of, and its generation where results of others are apart."""
    generation = _GENERATIONS_IN_WORDS.get(family.rpartition("_")[0].rpartition("_")[2])
    processor = result["machine"]["processor"]
    return f"{processor} {generation}" if generation else processor


def in_words(family: str, result: dict[str, Any]) -> str:
    """Return a family's heading: the processor that `result` is of, and its unit."""
    words, processor = _UNITS_IN_WORDS.get(family.rpartition("_")[2]), processor_of(family, result)
    return f"{processor}, {words}" if words else processor

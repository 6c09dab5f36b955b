"""Processor families, from texts of /proc/cpuinfo as Linux writes them."""

from __future__ import annotations

import json

import pytest

import families

COMMON = "fpu sse sse2 ssse3 fma sse4_1 avx f16c"
AVX2 = f"{COMMON} avx2 bmi2"
AVX512 = f"{AVX2} avx512f avx512dq avx512bw avx512vl avx512_vnni"


def cpuinfo(vendor: str, flags: str, processors: int = 2, number: int = 6) -> str:
    lines = (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {number}\nmodel name\t: some name: 2.1 GHz\n"
        f"flags\t\t: {flags}\nbugs\t\t:\n\n"
    )
    return lines * processors


@pytest.mark.parametrize(
    "vendor, flags, family",
    [
        ("AuthenticAMD", AVX2, "amd_avx2"),
        ("AuthenticAMD", f"{AVX512} avx512_bf16", "amd_avx512"),
        ("GenuineIntel", AVX512, "intel_avx512"),
        ("GenuineIntel", f"{AVX512} avx512_bf16 amx_bf16 amx_tile amx_int8", "intel_amx"),
        ("GenuineIntel", COMMON, "intel_portable"),
        ("CentaurHauls", AVX2, "centaurhauls_avx2"),
    ],
)
def test_vendor_and_widest_unit(vendor, flags, family):
    assert families.processor_family(cpuinfo(vendor, flags)) == family


def test_a_generation_that_multiplies_in_halves_has_results_of_its_own():
    flags = f"{AVX512} avx512_bf16"
    assert families.processor_family(cpuinfo("AuthenticAMD", flags, number=25)) == "amd_zen4_avx512"
    assert families.processor_family(cpuinfo("AuthenticAMD", flags, number=26)) == "amd_avx512"
    assert families.processor_family(cpuinfo("AuthenticAMD", AVX2, number=25)) == "amd_avx2"
    result = {"machine": {"processor": "AMD EPYC"}}
    assert families.in_words("amd_zen4_avx512", result) == "AMD EPYC Zen 4, AVX-512"
    assert families.in_words("amd_avx512", result) == "AMD EPYC, AVX-512"


def test_flags_are_words_not_parts_of_words():
    assert families.processor_family(cpuinfo("GenuineIntel", f"{COMMON} avx2_like noavx512f")) == "intel_portable"


@pytest.mark.parametrize("text", ["", "processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n"])
def test_a_processor_without_x86_fields_has_the_name_of_its_architecture(monkeypatch, text):
    monkeypatch.setattr(families.platform, "machine", lambda: "aarch64")
    assert families.processor_family(text) == "aarch64_portable"


def test_result_names(monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo("AuthenticAMD", AVX2))
    monkeypatch.setattr(families, "CPUINFO", path)
    assert families.result_name("comparison") == "comparison_cpu_amd_avx2"
    assert families.result_name("comparison", "cuda") == "comparison_cuda"
    monkeypatch.setattr(families, "CPUINFO", tmp_path / "missing")
    assert families.result_name("comparison").endswith("_portable")


def test_results_are_found_by_family(tmp_path):
    for name in ("comparison_cpu_intel_amx", "comparison_cpu_amd_avx2", "comparison_cuda", "demo_cpu_amd_avx512"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"machine": {"processor": name}}))
    results = families.results_by_family(tmp_path, "comparison")
    assert list(results) == ["amd_avx2", "intel_amx"]
    assert families.in_words("intel_amx", results["intel_amx"]) == "comparison_cpu_intel_amx, AMX"
    assert families.in_words("aarch64_portable", results["amd_avx2"]) == "comparison_cpu_amd_avx2"

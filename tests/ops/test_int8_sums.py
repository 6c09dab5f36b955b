"""Sums of int8 products are exact in every instruction set, so that they are the same bit by bit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import fastbert_kernels

SOURCE = Path(__file__).with_name("int8_sums.cpp")
FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"],
    "avx512_bf16": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mavx512bf16", "-mavx512vnni"],
}


@pytest.mark.parametrize("isa", list(FLAGS))
def test_sums_are_exact(tmp_path, isa):
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    state = (fastbert_kernels.info()["cpu_instruction_sets"] or {}).get(isa, "the compiled module has no such set")
    program = tmp_path / "int8_sums"
    command = ["g++", "-std=c++17", "-O1", "-fopenmp-simd", f"-DFASTBERT_ISA={isa}", f"-I{SOURCE.parents[2] / 'csrc'}"]
    built = subprocess.run([*command, *FLAGS[isa], str(SOURCE), "-o", str(program)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr  # also where it cannot run
    if state not in ("in use", "available"):
        pytest.skip(state)
    run = subprocess.run([str(program)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout

"""The instruction set amx as it is compiled for processors: its instructions are in its own files, and in no others."""

from __future__ import annotations

import json
import platform
import re
import shlex
import shutil
import subprocess
import sys

import pytest

import cmake_builds

pytestmark = pytest.mark.proof
WIDE_SETS = {"avx512", "avx512_bf16", "amx"}


def output(command, **options):
    run = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert run.returncode == 0, f"{command}:\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
    return run.stdout


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Say how each file is compiled: (instruction set or None, path) -> the words of the command."""
    if cmake_builds.missing() is not None:
        pytest.skip(cmake_builds.missing())
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("tile registers are of x86-64 processors")
    folder = tmp_path_factory.mktemp("configured")
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", "-DFASTBERT_CUDA=OFF"]
    output(["cmake", f"-S{cmake_builds.ROOT}", f"-B{folder}", f"-DPython_EXECUTABLE={sys.executable}", *options])
    found = {}
    for entry in json.loads((folder / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        kind = re.search(r"cpu_(\w+)\.dir", words[words.index("-o") + 1])
        found[kind and kind.group(1), str(entry["file"])] = words
    if not any(instruction_set == "amx" for instruction_set, _ in found):
        pytest.skip("this compiler knows no tile registers")
    return found


def test_wide_instructions_are_for_the_wide_sets_only(commands):
    """Everything else has to run on a processor without them."""
    wide = {
        instruction_set
        for (instruction_set, _), words in commands.items()
        if any(word.startswith(("-mavx512", "-mamx", "-march")) for word in words)
    }
    assert wide == WIDE_SETS
    tiles = {key[0] for key, words in commands.items() if any(word.startswith("-mamx") for word in words)}
    assert tiles == {"amx"}


@pytest.mark.parametrize(
    ("file", "instructions"),
    [
        ("product", {"tdpbf16ps", "tdpbusd", "tileloadd", "tilestored", "tilezero", "ldtilecfg", "tilerelease"}),
        ("attention", {"tdpbf16ps", "tileloadd", "tilestored", "tilezero", "ldtilecfg", "tilerelease"}),
    ],
)
def test_the_compiler_makes_tile_instructions(commands, tmp_path, file, instructions):
    if shutil.which("objdump") is None or shutil.which("nm") is None:
        pytest.skip("binutils are not installed")
    source = str(cmake_builds.ROOT / "csrc/cpu/isa" / f"{file}.cpp")
    words = ["-O1" if word == "-O3" else word for word in commands["amx", source]]
    words[words.index("-o") + 1] = made = str(tmp_path / "made.o")
    output(words)
    assert set(re.findall(r"\b(?:tdp\w+|tile\w+|ldtilecfg)\b", output(["objdump", "-d", made]))) == instructions
    # A linker takes one of several copies of a function for the whole module, and it might be this one.
    shared = [line for line in output(["nm", "--defined-only", "-C", made]).splitlines() if " W " in line]
    assert shared == []

#!/usr/bin/env python
"""Plants deliberate faults in the kernels, one at a time, and checks that some test notices each.

Works in a temporary copy of the sources. A fault is an exact piece of text and what takes its place; when the text is
no longer there exactly once, the script stops, since a fault that is not planted proves nothing. Seven suites: the CUDA
kernels run on the CPU by tests/cuda_on_cpu (needs g++ and the headers of the CUDA toolkit), and as PTX by tests/ptx
(needs nvcc: faults that no result shows, or that stand in the instructions themselves), the C++ kernels for CPUs
and the reference in PyTorch by tests/ops, those with tile registers by tests/tile_model, the loops over layers by
tests/engine, and the engine's threads by tests/threads (needs g++). Each suite must pass before its faults are planted.

Exit status: 0 when every fault was caught, 1 when one survived, 2 when the check itself could not run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faults import FAULTS, CheckError, Fault

ROOT = Path(__file__).resolve().parents[1]
COPIED = ["CMakeLists.txt", "README.md", "pyproject.toml", "setup.py"]
COPIED += ["benchmarks", "csrc", "fastbert_kernels", "python", "tests"]  # the tests have host doubles in benchmarks
PYTEST = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header"]
HANGS = 5  # a test run that takes so many times what it takes without a fault hangs, which is a way to be caught
FOLDERS = {
    "cuda": "tests/cuda_on_cpu",
    "ptx": "tests/ptx",
    "cpu": "tests/ops",
    "tiles": "tests/tile_model",
    "engine": "tests/engine",
    "threads": "tests/threads",
    "reference": "tests/ops",
}
IMPORT_TILES = f"import sys; sys.path.insert(0, {FOLDERS['tiles']!r}); import tile_kernels"

# These tests compile by themselves; what they make for each state of the sources.
MADE = {"cuda": "build/cuda_on_cpu/*.so", "ptx": "build/ptx/*/kernels.ptx"}


def run(command: list[str], copy: Path, seconds: float) -> tuple[bool, str]:
    """Return whether the command succeeded within the time, and the end of what it printed."""
    # Paths of the copy first: an installed package must not stand in for the copy. Of benchmarks, as pytest has it.
    paths = os.pathsep.join(str(copy / part) for part in ("", "python", "benchmarks"))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False, "took too long"
    return done.returncode == 0, (done.stdout + done.stderr).strip()[-2000:]


def build_cpu(copy: Path) -> None:
    """Compile the module; raise CheckError when that fails, which must not pass for a fault caught."""
    folder = copy / "build/cmake"
    if not folder.exists():
        command = ["cmake", f"-S{copy}", f"-B{folder}", f"-DPython_EXECUTABLE={sys.executable}", "-DFASTBERT_CUDA=OFF"]
        command += [f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={copy / 'fastbert_kernels'}"]
        configured, output = run([*command, *(["-GNinja"] if shutil.which("ninja") else [])], copy, 600)
        if not configured:
            raise CheckError(f"cmake failed:\n{output}")
    built, output = run(["cmake", "--build", str(folder), "-j2"], copy, 3600)
    if not built:
        raise CheckError(f"the C++ kernels do not compile:\n{output}")


def build_tiles(copy: Path) -> None:
    """Compile the kernels with modelled tiles, as their tests do; raise CheckError when that fails."""
    built, output = run([sys.executable, "-c", f"{IMPORT_TILES}; tile_kernels.build('tile_kernels')"], copy, 3600)
    if not built:
        raise CheckError(f"the kernels with modelled tiles do not compile:\n{output}")


def test(suite: str, files: str, copy: Path, seconds: float) -> tuple[bool, str]:
    """Compile what is tested; return whether the tests pass within the time, and what they print."""
    before = len(list(copy.glob(MADE[suite]))) if suite in MADE else 0
    if suite in ("cpu", "engine"):
        build_cpu(copy)
    if suite == "tiles":
        build_tiles(copy)
    passed, output = run([*PYTEST, *(str(Path(FOLDERS[suite]) / name) for name in files.split())], copy, seconds)
    if suite in MADE and len(list(copy.glob(MADE[suite]))) == before:
        raise CheckError(f"the CUDA kernels were not compiled:\n{output}")
    return passed, output


def check_suite(suite: str, faults: list[Fault], copy: Path) -> int:
    """Print a line for each fault and return how many survived."""
    files = " ".join(sorted({name for fault in faults for name in fault.tests.split()}))
    began = time.monotonic()
    passed, output = test(suite, files, copy, 3600)
    seconds = HANGS * (time.monotonic() - began)
    if not passed:
        raise CheckError(f"the suite {suite!r} fails without any fault:\n{output}")
    survived = 0
    for fault in faults:
        began = time.monotonic()
        path = copy / fault.file
        original = path.read_text()
        path.write_text(fault.planted_in(original))
        try:
            passed, output = test(suite, fault.tests, copy, seconds)
        finally:
            path.write_text(original)
        survived += passed
        failed = re.search(r"^(?:FAILED|ERROR) \S+::(\w+)", output, re.MULTILINE)
        verdict = "SURVIVED" if passed else f"caught by {failed.group(1) if failed else 'a crash or a hang'}"
        print(f"{suite:9}  {fault.name:43}  {time.monotonic() - began:4.0f} s  {verdict}", flush=True)
    return survived


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n")[-1])
    parser.add_argument("--suite", action="append", choices=list(FOLDERS), help="only this suite (may be repeated)")
    parser.add_argument("--only", default="", help="only faults whose name contains this text")
    parser.add_argument("--list", action="store_true", help="print the faults, check their texts, and stop")
    arguments = parser.parse_args()
    suites = arguments.suite or list(FOLDERS)
    faults = {suite: [fault for fault in FAULTS[suite] if arguments.only in fault.name] for suite in suites}
    count = sum(map(len, faults.values()))
    if not count:
        parser.error("no fault fits")
    try:
        for suite, own in faults.items():
            for fault in own:
                fault.planted_in((ROOT / fault.file).read_text())
                if arguments.list:
                    print(f"{suite:9}  {fault.name:43}  {fault.file}")
        if arguments.list:
            return 0
        began = time.monotonic()
        survived = 0
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder)
            for name in COPIED:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
                else:
                    shutil.copy(ROOT / name, copy / name)
            for suite, own in faults.items():
                if suite == "reference":
                    build_cpu(copy)  # the tests compare with the C++ kernels as they should be
                survived += check_suite(suite, own, copy) if own else 0
    except CheckError as error:
        print(f"mutation_check: {error}", file=sys.stderr)
        return 2
    print(f"{count - survived} of {count} faults caught, {time.monotonic() - began:.0f} s")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

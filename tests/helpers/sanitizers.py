"""The short tests of a folder once more, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SANITIZED = os.environ.get("FASTBERT_TEST_SANITIZE") == "1"  # whether this is the run under sanitizers


def run_short_tests(folder: Path) -> None:
    """Run the tests of `folder` with "short" in their names in another process; they must pass.

    AddressSanitizer must be the first library of a process. What it loads is to be compiled before, by a compiler that
    is not itself sanitized.
    """
    names = ["libasan.so", "libubsan.so"]
    runtime = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in names]
    if not all(os.path.isabs(path) for path in runtime):
        pytest.skip("g++ has no sanitizer runtime")
    environment = os.environ | {
        "FASTBERT_TEST_SANITIZE": "1",
        "LD_PRELOAD": " ".join(runtime),
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider", "-k", "short", str(folder)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    assert " passed" in run.stdout, run.stdout[-5000:]

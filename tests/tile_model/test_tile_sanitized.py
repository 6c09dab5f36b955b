"""The short tests of this folder once more, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tile_kernels


@pytest.mark.skipif(os.environ.get("FASTBERT_TEST_SANITIZE") == "1", reason="this is the run under sanitizers")
@pytest.mark.skipif(tile_kernels.missing() is not None, reason=str(tile_kernels.missing()))
def test_short_tests_under_sanitizers():
    """AddressSanitizer must be the first library of a process, hence another process."""
    names = ["libasan.so", "libubsan.so"]
    runtime = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in names]
    if not all(os.path.isabs(path) for path in runtime):
        pytest.skip("g++ has no sanitizer runtime")
    tile_kernels.build("tile_kernels", sanitize=True)  # by a compiler that is not itself sanitized
    environment = os.environ | {
        "FASTBERT_TEST_SANITIZE": "1",
        "LD_PRELOAD": " ".join(runtime),
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "1",
    }
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider", "-k", "short", str(folder)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]

"""scripts/gpu_check.sh as far as it can be looked at without a GPU."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from helpers import programs

ROOT = Path(__file__).parents[1]
SCRIPT = (ROOT / "scripts" / "gpu_check.sh").read_text()
SELECTIONS = re.findall(r'-k "([^"]+)"', SCRIPT)


def test_every_tool_gets_a_selection():
    assert len(SELECTIONS) == SCRIPT.count("compute-sanitizer --tool") == 2


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_selection_has_tests_of_both_backends(selection):
    arguments = ["-q", "-p", "no:cacheprovider", "--collect-only", "tests/gpu/test_ops_on_gpu.py", "-k", selection]
    collected = programs.succeed(f"import os, pytest, sys; os.chdir({str(ROOT)!r}); sys.exit(pytest.main({arguments}))")
    assert all(f"[{backend}-" in collected for backend in ("cuda", "triton"))


def test_what_it_starts_exists():
    files = re.findall(r"(?:benchmarks|tests)/[\w/.]+", SCRIPT)
    assert files and all((ROOT / file).exists() for file in files)


def test_without_a_gpu_it_says_so(tmp_path):
    run = subprocess.run(
        ["bash", str(ROOT / "scripts" / "gpu_check.sh"), str(tmp_path)],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2 and "nothing was checked" in (tmp_path / "summary.txt").read_text()

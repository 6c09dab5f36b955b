"""scripts/gpu_check.sh as far as it can be looked at without a GPU."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from helpers import programs

ROOT = Path(__file__).parents[1]
SCRIPT = (ROOT / "scripts" / "gpu_check.sh").read_text()
SELECTIONS = re.findall(r'-k "([^"]+)"', SCRIPT)


def test_every_tool_gets_a_selection():
    assert len(SELECTIONS) == SCRIPT.count("compute-sanitizer --tool") == 2


def test_the_selections_have_tests_of_both_backends():
    arguments = ["-q", "-p", "no:cacheprovider", "--collect-only", "tests/gpu/test_ops_on_gpu.py", "-k"]
    program = ["import os, pytest", f"os.chdir({str(ROOT)!r})"]
    for selection in SELECTIONS:
        program += ["print('next')", f"assert pytest.main({[*arguments, selection]}) == 0"]
    _, *collected = programs.succeed("\n".join(program)).split("next\n")
    assert len(collected) == len(SELECTIONS)
    assert all(f"[{backend}-" in one for one in collected for backend in ("cuda", "triton"))


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

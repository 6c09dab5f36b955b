"""The faults of scripts/mutation_check.py still fit the sources that they are planted in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "mutation_check.py"


def test_every_fault_can_be_planted():
    listed = subprocess.run([sys.executable, str(SCRIPT), "--list"], capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert len(listed.stdout.splitlines()) > 50


def test_the_copy_has_what_the_tests_import(monkeypatch, pytestconfig):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from mutation_check import COPIED

    roots = {path.name for path in pytestconfig.getini("pythonpath")}
    assert {"csrc", "fastbert_kernels", "python", *roots} <= set(COPIED)


def test_modelled_tiles_are_compiled_from_the_root_of_the_copy(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from mutation_check import IMPORT_TILES, run

    imported, output = run([sys.executable, "-c", IMPORT_TILES], SCRIPT.parents[1], 120)
    assert imported, output

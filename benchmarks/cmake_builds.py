"""Builds of CMakeLists.txt beside the installed module, each in a folder of its own, where later runs find them."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def missing() -> str | None:
    """Say why nothing can be built here, or return None."""
    return next((f"{tool} is not installed" for tool in ("cmake", "g++") if shutil.which(tool) is None), None)


def build(name: str, options: Sequence[str], target: str = "all") -> Path:
    """Compile what is not up to date, and return the folder of the libraries.

    Args:
        name: of the folder in build/.
        options: of cmake, which are looked at the first time only.
        target: of CMakeLists.txt.

    Raises:
        RuntimeError: it cannot be configured or compiled, with the end of what was printed.
    """
    folder = ROOT / "build" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may ask for it
        if not (folder / "configured").exists():
            command = ["cmake", f"-S{ROOT}", f"-B{folder}", f"-DPython_EXECUTABLE={sys.executable}"]
            command += [f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={folder}/library", *options]
            _run([*command, *(["-GNinja"] if shutil.which("ninja") else [])])
            (folder / "configured").touch()
        _run(["cmake", "--build", str(folder), "--target", target, "-j2"])
    return folder / "library"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-5000:]}{done.stderr[-5000:]}")

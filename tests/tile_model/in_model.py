"""Programs that run with the compiled module whose tiles are modelled (tile_model.h)."""

from __future__ import annotations

import subprocess

import tile_kernels

from helpers import programs

# The module of the model takes the place of the installed one before anything asks for that.
PRELUDE = """
import importlib.util, sys
specification = importlib.util.spec_from_file_location("fastbert_kernels._C", {path!r})
sys.modules["fastbert_kernels._C"] = module = importlib.util.module_from_spec(specification)
specification.loader.exec_module(module)
"""


def run(program: str, *, avx512: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program; `environment` is added to that of this process."""
    folder = tile_kernels.build("_C", avx512=avx512)
    path = next(folder.glob("_C.*.so"))
    return programs.run(PRELUDE.format(path=str(path)) + program, **environment)

"""Triton's interpreter, which runs kernels on the CPU.

It has to be chosen before Triton reads a kernel, and for a whole process. So tests of interpreted kernels are collected
only where TRITON_INTERPRET=1 is set, and elsewhere one test runs them all in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


def patch_language_once() -> None:
    """Whenever a device function is called it looks through all of triton.language for what the interpreter replaces,
    though its kernel has done so before: a sixth of the time. From now on, the first call from a module does it."""
    from triton.runtime import interpreter

    patched: set[str] = set()

    def call(function, *args, **kwargs):
        if function.fn.__module__ not in patched:
            patched.add(function.fn.__module__)
            interpreter._patch_lang(function.fn)
        return function.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call


if INTERPRETING:
    patch_language_once()


def interpreted_elsewhere(file: str) -> Callable[[], None]:
    """Return a test that runs the interpreted tests of `file` in such a process; they must pass."""

    @pytest.mark.proof
    @pytest.mark.skipif(INTERPRETING, reason="this is the interpreting process")
    def test() -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", file]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
        assert " passed" in run.stdout

    return test


def round_to_nearest() -> None:
    """From float32 to bfloat16 the interpreter drops bits, and to FP8 a NaN, too; from now on it rounds as the hardware
    does."""
    from triton import language
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounding(values, source, target, mode):
        if source == language.float32 and target == language.bfloat16:
            return torch.from_numpy(values.copy()).bfloat16().view(torch.uint16).numpy()
        if source == language.float32 and target == language.float8e4nv:
            return torch.from_numpy(values.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
        return convert(values, source, target, mode)

    interpreter._convert_float = rounding

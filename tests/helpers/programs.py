"""Programs in processes of their own, forked from one that has PyTorch and the models in memory.

To import them takes seconds of a processor, what a program does often less than one.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Neither starts threads, and fastbert_hf imports no kernels: a program may choose which.
IMPORTED = ["torch", "transformers.models.bert.modeling_bert", "fastbert_hf"]


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the text of a Python program, with more variables in its environment than this process has."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "stdout"), Path(folder, "stderr")
        process = context.Process(target=_execute, args=(program, environment, *files))
        process.start()
        process.join(900)
        if process.is_alive():
            process.kill()
            process.join()
        stdout, stderr = (file.read_text() for file in files)
    return subprocess.CompletedProcess(program, process.exitcode, stdout, stderr)


def succeed(program: str, **environment: str) -> str:
    """Run a program that must not fail, and return what it prints."""
    done = run(program, **environment)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


def _execute(program: str, environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    for stream, file in ((sys.stdout, stdout), (sys.stderr, stderr)):
        with file.open("wb") as opened:
            os.dup2(opened.fileno(), stream.fileno())
    os.environ.update(environment)
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})


def assert_passes_in_its_own_process(file: str, variable: str) -> None:
    """Run the tests of a file that are only for a process with an environment variable; at least one must have run."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    done = subprocess.run(command, env={**os.environ, variable: "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout

"""The engine's threads by themselves (pool.cpp), built plainly and under ThreadSanitizer."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
CSRC = FOLDER.parents[1] / "csrc"
TESTS = [
    "many_small_regions",
    "deep_nesting",
    "others_take_part",
    "limits_are_kept",
    "errors_arrive",
    "a_call_is_interrupted",
]
FORKING = ["children_have_threads_of_their_own", "a_fork_in_the_middle_of_a_call"]


@pytest.fixture(scope="module")
def program(request, tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    path = tmp_path_factory.mktemp("pool") / "pool"
    sources = [str(FOLDER / "pool.cpp"), str(CSRC / "cpu" / "threads.cpp")]
    command = ["g++", "-std=c++17", "-O1", "-g", "-pthread", f"-I{CSRC}", *request.param, *sources, "-o", str(path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "-fsanitize=thread" in request.param and "cannot find" in built.stderr:
        pytest.skip("g++ has no ThreadSanitizer runtime")
    assert built.returncode == 0, built.stderr
    # ThreadSanitizer wants its addresses where a randomised layout may have put something else.
    fixed = shutil.which("setarch") if request.param else None
    return [*([fixed, platform.machine(), "-R"] if fixed else []), str(path)]


def run(program, name):
    done = subprocess.run([*program, name], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize(
    "program",
    [
        pytest.param([], id="plain"),
        pytest.param(["-fsanitize=thread"], id="sanitized", marks=pytest.mark.proof),
    ],
    indirect=True,
)
@pytest.mark.parametrize("name", TESTS)
def test_pool(program, name):
    run(program, name)


@pytest.mark.parametrize("program", [[]], ids=["plain"], indirect=True)  # the sanitizer has no threads after a fork
@pytest.mark.parametrize("name", FORKING)
def test_pool_and_fork(program, name):
    run(program, name)

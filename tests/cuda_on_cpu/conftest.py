"""The CUDA kernels, run on the CPU: one library for all tests of this folder, and its default machine for each."""

from __future__ import annotations

import cpu_library
import pytest

from helpers.sanitizers import SANITIZED


@pytest.fixture(scope="session")
def built_library() -> cpu_library.CpuLibrary:
    reason = cpu_library.missing()
    if reason is not None:
        pytest.skip(reason)
    return cpu_library.CpuLibrary(SANITIZED)


@pytest.fixture
def library(built_library: cpu_library.CpuLibrary) -> cpu_library.CpuLibrary:
    built_library.configure()
    return built_library

"""The kernels with tiles, compiled once for all tests of this folder."""

from __future__ import annotations

import pytest
import tile_kernels

import cmake_builds
from helpers.sanitizers import SANITIZED


@pytest.fixture(scope="session")
def kernels() -> tile_kernels.TileKernels:
    reason = cmake_builds.missing()
    if reason is not None:
        pytest.skip(reason)
    return tile_kernels.TileKernels(sanitize=SANITIZED)

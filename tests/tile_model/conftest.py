"""The kernels with tiles, compiled once for all tests of this folder."""

from __future__ import annotations

import pytest
import tile_kernels

import cmake_builds
from helpers.sanitizers import SANITIZED


@pytest.fixture(scope="session", params=["vectors of any processor", "vectors of AVX-512"])
def kernels(request: pytest.FixtureRequest) -> tile_kernels.TileKernels:
    reason, avx512 = cmake_builds.missing(), request.param == "vectors of AVX-512"
    if avx512 and not tile_kernels.has_avx512():
        reason = "this processor has no AVX-512 with bfloat16"
    if reason is not None:
        pytest.skip(reason)
    return tile_kernels.TileKernels(avx512=avx512, sanitize=SANITIZED)

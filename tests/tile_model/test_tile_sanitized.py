"""The short tests of this folder once more, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import tile_kernels

import cmake_builds
from helpers.sanitizers import SANITIZED, run_short_tests


@pytest.mark.proof
@pytest.mark.skipif(SANITIZED, reason="this is the run under sanitizers")
@pytest.mark.skipif(cmake_builds.missing() is not None, reason=str(cmake_builds.missing()))
def test_short_tests_under_sanitizers():
    for avx512 in {False, tile_kernels.has_avx512()}:
        tile_kernels.build("tile_kernels", avx512=avx512, sanitize=True)
    run_short_tests(Path(__file__).parent)

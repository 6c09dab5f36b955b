"""The short tests of this folder once more, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

from pathlib import Path

import cpu_library
import pytest

from helpers.sanitizers import SANITIZED, run_short_tests


@pytest.mark.proof
@pytest.mark.skipif(SANITIZED, reason="this is the run under sanitizers")
@pytest.mark.skipif(cpu_library.missing() is not None, reason=str(cpu_library.missing()))
def test_short_tests_under_sanitizers():
    cpu_library.build(sanitize=True)
    run_short_tests(Path(__file__).parent)

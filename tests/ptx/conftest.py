"""The launchers of the CUDA kernels with their kernels in PTX, each compiled when the first test asks for it."""

from __future__ import annotations

import compiled
import pytest


def _launcher(name: str) -> compiled.Launcher:
    reason = compiled.missing()
    if reason is not None:
        pytest.skip(reason)
    return compiled.Launcher(name)


@pytest.fixture(scope="session")
def compact() -> compiled.Launcher:
    return _launcher("compact")


@pytest.fixture(scope="session")
def pooled_exit_head() -> compiled.Launcher:
    return _launcher("pooled_exit_head")


@pytest.fixture(scope="session")
def attentive_head() -> compiled.Launcher:
    return _launcher("attentive_head")

"""Registrations do not outlive a test."""

from __future__ import annotations

import pytest

from fastbert_kernels.hosts.registered import REGISTERED


@pytest.fixture(autouse=True)
def no_registrations_left():
    yield
    REGISTERED.clear()

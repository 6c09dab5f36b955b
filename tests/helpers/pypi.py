"""The FastBERT packages of others, in tests that are skipped where a package is not installed."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import pytest

from doubles import pypi


def imported(name: str, home: Path) -> contextlib.AbstractContextManager:
    """`doubles.pypi.imported`, for a test or a fixture."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"the package {name} is not installed (pip install fastbert-kernels[hosts])")
    return pypi.imported(name, home)

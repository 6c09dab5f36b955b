"""Tables of what is refused, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest


def refused(*cases: tuple[Mapping[str, Any], str]) -> pytest.MarkDecorator:
    """Run a test, which takes `changes` and `message`, for each case: settings that are refused, and the words why."""
    return pytest.mark.parametrize(("changes", "message"), cases)

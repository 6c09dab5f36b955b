"""Names of a package that load their module when they are first asked for.

Transformers and torch take seconds to import. What needs neither (reading files, checking settings) does not wait for
them: importing `fastbert_hf`, `fastbert_hf.data` and `fastbert_hf.training` loads nothing else.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def deferred_names(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package whose names live in modules that are loaded when needed.

    Args:
        package: its `__name__`.
        names: by module, relative to the package, the names that it has for the package.
    """
    homes = {name: f"{package}.{module}" for module, theirs in names.items() for name in theirs}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)  # found at once the next time
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, listed

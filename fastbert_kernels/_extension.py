"""The compiled module `fastbert_kernels._C`: found, or the reason why it is not there.

Started in the root of a clone after a plain `pip install .`, Python imports the sources lying there instead of the
installed package, and these have no compiled module beside them. The installed copy's module is then used, if it is of
the same version.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import torch  # noqa: F401  (comes first: the compiled module reads its tensors)

from fastbert_kernels import threads
from fastbert_kernels._version import __version__

REMEDY = "install the package from its root folder: pip install . (or pip install -e . to work on it)"


@cache
def load() -> tuple[ModuleType | None, str]:
    """Return (module, where it was found) or (None, why it is missing and what to do)."""
    module, detail = _find()
    if module is not None:
        module.count_threads_with(threads.limits)
    return module, detail


def _find() -> tuple[ModuleType | None, str]:
    try:
        module = importlib.import_module("fastbert_kernels._C")
        return module, str(module.__file__)
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):
            return None, f"the compiled module does not load ({error}); {REMEDY}"
    installed = _installed_module()
    if installed is None:
        return None, f"the compiled module fastbert_kernels._C is not built; {REMEDY}"
    spec = importlib.util.spec_from_file_location("fastbert_kernels._C", installed)
    if spec is None or spec.loader is None:
        return None, f"{installed} is not a loadable module; {REMEDY}"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, str(installed)


def _installed_module() -> Path | None:
    """Path of the compiled module of an installed copy of this very version."""
    # More than one may be on the path: a build leaves metadata without the module beside the sources.
    for distribution in importlib.metadata.distributions(name="fastbert-kernels"):
        if distribution.version != __version__:
            continue
        for file in distribution.files or []:
            path = Path(str(distribution.locate_file(file)))
            if file.parent.name == "fastbert_kernels" and file.name.startswith("_C.") and path.is_file():
                return path
    return None


def module() -> ModuleType:
    """The compiled module; ImportError with the remedy when it is missing. Callers check availability first."""
    loaded, detail = load()
    if loaded is None:
        raise ImportError(f"fastbert_kernels: {detail}")
    return loaded

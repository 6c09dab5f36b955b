"""FastBERT packages of others, `fastbert` and `fastplm` of PyPI, as tests and benchmarks import them.

Both put a folder with a top-level package `uer` on sys.path, and each needs its own. So one is imported at a time, with
all traces of the other removed before, and of itself behind. On import they make a folder in the home directory and
switch off the check of TLS certificates; neither is to stay.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

PACKAGES = ("fastbert", "fastplm")


@contextlib.contextmanager
def imported(name: str, home: Path) -> Iterator[Any]:
    """The package of that name, as if it were the first of its kind in this process.

    Args:
        home: an empty folder that is the home directory meanwhile.
    """
    context = ssl._create_default_https_context
    _forget()
    try:
        with mock.patch.dict("os.environ", HOME=str(home)):
            yield importlib.import_module(name)
    finally:
        ssl._create_default_https_context = context
        _forget()


def _forget() -> None:
    for name in list(sys.modules):
        if name.split(".", 1)[0] in (*PACKAGES, "uer"):
            del sys.modules[name]
    sys.path[:] = [path for path in sys.path if not Path(path, "uer", "__init__.py").exists()]


def register_configuration(package: Any, folder: Path, **changes: Any) -> str:
    """Make a small kernel model known to the package; return the name under which it is built.

    Args:
        changes: of its configuration, whose names are the package's own.
    """
    configuration = {
        "emb_size": 48,
        "feedforward_size": 96,
        "hidden_size": 48,
        "heads_num": 4,
        "layers_num": 4,
        "dropout": 0.1,
        "embedding": "bert",
        "encoder": "bert",
        "pooling": "first",
        "vocab_path": "google_zh_vocab.txt",
        **changes,
    }
    file = folder / f"small-{len(package.config.MODEL_CONFIG_FILE)}.json"
    file.write_text(json.dumps(configuration))
    package.config.MODEL_CONFIG_FILE[file.stem] = str(file)
    return file.stem


def spread_weights(model: torch.nn.Module, seed: int = 0) -> None:
    """Random weights large enough for uncertainties all over [0, 1] at every layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * (6.0 if "output_layer_2" in name else 1.5) / parameter.shape[-1] ** 0.5)
            else:
                parameter.copy_(0.1 * noise + (1.0 if name.endswith("gamma") else 0.0))

"""Telling models by their structure, where their class cannot be imported."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def find(model: nn.Module, path: str) -> nn.Module | None:
    """The submodule at `path`, None where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def differences(model: nn.Module, expected: Mapping[str, type[nn.Module]], prefix: str = "") -> list[str]:
    """What `model` has otherwise than `expected`: path of a submodule -> its exact class."""
    found = []
    for path, kind in expected.items():
        module = find(model, path)
        if module is None:
            found.append(f"{prefix}{path} is missing")
        elif type(module) is not kind:  # a derived class may compute something else
            found.append(f"{prefix}{path} is a {type(module).__name__}, not a {kind.__name__}")
    return found


def refuse(model: nn.Module, kind: str, found: list[str]) -> None:
    """ValueError that lists the differences, where there are any."""
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(
            f"{type(model).__name__} looks like {kind}, but cannot be patched: {'; '.join(found[:3])}{more}. The "
            "unpatched model serves it; fastbert_kernels.register_host describes a model of another structure"
        )

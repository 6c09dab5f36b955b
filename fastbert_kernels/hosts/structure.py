"""Telling models by their structure, where their class cannot be imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fastbert_kernels.hosts.guard import was_replaced


def find(model: nn.Module, path: str) -> nn.Module | None:
    """The submodule at `path`, None where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def differences(model: nn.Module, expected: Mapping[str, type[nn.Module]], prefix: str = "") -> list[str]:
    """Return what `model` has otherwise than `expected`: path of a submodule -> its exact class."""
    found = []
    for path, kind in expected.items():
        module = find(model, path)
        if module is None:
            found.append(f"{prefix}{path} is missing")
        elif type(module) is not kind:  # a derived class may compute something else
            found.append(f"{prefix}{path} is a {type(module).__name__}, not a {kind.__name__}")
    return found


def unknown_parameters(model: nn.Module, known: tuple[str, ...], prefix: str = "") -> list[str]:
    """Parameters of `model` whose names begin with nothing in `known`: it has more to compute with."""
    return [f"{prefix}{name} is unknown" for name, _ in model.named_parameters() if not name.startswith(known)]


def differences_of_call(model: nn.Module, forward: Callable[..., Any]) -> list[str]:
    """Return whether the model's own forward is another than its class was written with, or takes otherwise than
    `forward(model, encoder, ...)` of its host, in whose place that will be called."""
    if was_replaced(type(model), "forward"):
        return [f"the forward of {type(model).__name__} was replaced on the class"]
    _self, *own = inspect.signature(type(model).forward).parameters
    _model, _encoder, *expected = inspect.signature(forward).parameters
    return [] if own == expected else [f"forward takes ({', '.join(own)}), not ({', '.join(expected)})"]


def refuse(model: nn.Module, kind: str, found: list[str]) -> None:
    """ValueError that lists the differences, where there are any."""
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(
            f"{type(model).__name__} looks like {kind}, but cannot be patched: {'; '.join(found[:3])}{more}. The "
            "unpatched model serves it; fastbert_kernels.register_host describes a model of another structure"
        )

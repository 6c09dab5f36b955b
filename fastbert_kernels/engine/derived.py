"""Values computed from a host model's parameters, and how it is noticed that these have changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class _State(Generic[T]):
    """A value and what it was computed from: addresses and version counters, and aliases of the parameters, which keep
    the storages alive, so that a new one cannot come to lie at the same address and pass for the old."""

    versions: list[tuple[int, int]]
    value: T
    seen: list[Tensor]


class Derived(Generic[T]):
    """A value computed once from parameters, and again after any of them changed.

    Noticed: an optimiser step, `load_state_dict` and any other in-place write (the version counter moved); `.to(...)`,
    `.half()` and assignment of a new parameter (the storage moved). Not noticed, so that the model has to be patched
    again: a submodule replaced by another one, and in-place writes through `parameter.data`, which hide from the
    version counter.
    """

    def __init__(self, parameters: Sequence[tuple[nn.Module, str]], build: Callable[..., T]) -> None:
        """`build` is called with the current parameters, detached, in the order of `parameters` (module, parameter
        name). Where it is an object that holds modules, a deep copy holds those of the copied model."""
        self._parameters = parameters
        self._build = build
        # One object, replaced when the next is complete: no other thread, and nobody after a `build` that failed, gets
        # a value that is not of the versions beside it.
        self._state: _State[T] | None = None

    @torch.compiler.disable  # addresses and version counters mean nothing to a tracer
    def get(self) -> T:
        try:
            current: list[Any] = [module._parameters[name] for module, name in self._parameters]
            # A model has hundreds of parameters and is asked at every call, hence nothing but this in the loop.
            # Parameters created under inference_mode count no versions; they cannot be trained either.
            versions = [(x.data_ptr(), 0 if x.is_inference() else x._version) for x in current]
        except (KeyError, AttributeError):
            raise ValueError(self._missing()) from None
        state = self._state
        if state is None or versions != state.versions:
            seen = [parameter.detach() for parameter in current]
            self._state = state = _State(versions, self._build(*seen), seen)
        return state.value

    def forget(self) -> None:
        """Has the value derived anew when it is needed next, whether a change is noticed or not."""
        self._state = None

    def _missing(self) -> str:
        module, name = next((module, name) for module, name in self._parameters if module._parameters.get(name) is None)
        return (
            f"a patched model needs the parameter {name!r} of each of its layers, and {module} has none (made without, "
            "or pruned: torch.nn.utils.prune.remove makes that permanent); the unpatched model serves it"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Derived[T]:
        # A copied model's parameters are other ones, so the value is derived anew, from them.
        return Derived(copy.deepcopy(self._parameters, memo), copy.deepcopy(self._build, memo))

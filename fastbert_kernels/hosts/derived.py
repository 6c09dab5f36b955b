"""Values computed from a host model's parameters, and how it is noticed that these have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fastbert_kernels.hosts.guard import Guard

T = TypeVar("T")

_VERSION = Tensor._version.__get__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _State(Generic[T]):
    """A value and what it was computed from: addresses and version counters, and aliases of the parameters, which keep
    the storages alive, so that a new one cannot come to lie at the same address and pass for the old."""

    addresses: list[int]
    versions: list[int]
    value: T
    seen: list[Tensor]


class Derived(Generic[T]):
    """A value computed once from parameters, and again after any of them changed.

    Noticed: an optimizer step, `load_state_dict` and any other in-place write (the version counter moved); `.to(...)`,
    `.half()` and assignment of a new parameter (the storage moved). Not noticed, so that the model has to be patched
    again: in-place writes through `parameter.data`, which hide from the version counter. A module replaced by another
    one is for a `hosts.guard.Guard` to notice.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[tuple[nn.Module, str]],
        build: Callable[..., T],
        replaced: Iterable[nn.Module],
    ) -> None:
        """
        Args:
            model: whose parameters they are.
            parameters: (module, parameter name) of each.
            build: called with the current parameters, detached, in their order.
            replaced: modules of the model that the value stands in for, which `hosts.guard.differences` has checked.

        Attributes:
            guard: tells whether the modules are still as they were.
        """
        self.guard = Guard(model, replaced)
        self._parameters = parameters
        self._build = build
        # One object, replaced when the next is complete: no other thread, and nobody after a `build` that failed, gets
        # a value that is not of the versions beside it.
        self._state: _State[T] | None = None

    @torch.compiler.disable  # addresses and version counters mean nothing to a tracer
    def get(self) -> T:
        try:
            current: list[Any] = [module._parameters[name] for module, name in self._parameters]
            # A model has hundreds of parameters and is asked at every call, hence no Python for each of them.
            addresses = [*map(Tensor.data_ptr, current)]
            try:
                versions = [*map(_VERSION, current)]
            except RuntimeError:
                # Parameters created under inference_mode count no versions; they cannot be trained either.
                versions = [0 if tensor.is_inference() else tensor._version for tensor in current]
        except (KeyError, TypeError):
            raise ValueError(self._missing()) from None
        state = self._state
        if state is None or versions != state.versions or addresses != state.addresses:
            seen = [parameter.detach() for parameter in current]
            self._state = state = _State(addresses, versions, self._build(*seen), seen)
        return state.value

    def _missing(self) -> str:
        module, name = next((module, name) for module, name in self._parameters if module._parameters.get(name) is None)
        return (
            f"a patched model needs the parameter {name!r} of each of its layers, and {module} has none (made without, "
            "or pruned: torch.nn.utils.prune.remove makes that permanent); the unpatched model serves it"
        )

"""Values computed from a host model's parameters, and how it is noticed that these have changed."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fastbert_kernels import _extension
from fastbert_kernels.forks import in_forked_children
from fastbert_kernels.hosts.guard import VERSION, Guard, version_of

T = TypeVar("T")

_PLAIN = {nn.Parameter, Tensor}  # other kinds are quantised, sharded, or without memory


@dataclass(frozen=True)
class _State(Generic[T]):
    """A value and what it was computed from: the parameters, their addresses and version counters, and steps of
    optimisers. The parameters and aliases of them keep objects and storages alive, so that a new one cannot come to lie
    at the same address and pass for the old."""

    parameters: list[Tensor]
    kinds: list[type]
    addresses: list[int]
    versions: list[int]
    steps: int
    value: T
    seen: list[Tensor]

    def is_of(self, parameters: list[Tensor], addresses: list[int], versions: list[int], steps: int) -> bool:
        """Return whether the value was computed from these."""
        same = [*map(id, parameters)] == [*map(id, self.parameters)]
        return same and (addresses, versions, steps) == (self.addresses, self.versions, self.steps)


class Derived(Generic[T]):
    """A value computed once from parameters, and again after any of them changed.

    Noticed: `load_state_dict` and any other in-place write (the version counter moved); `.to(...)` and `.half()` (the
    storage moved); a parameter put in the place of another one, even where it is a view of it; the step of an
    optimiser, whose fused kernels move no counter (it tells us). Not noticed, so that the model has to be patched
    again: in-place writes through `parameter.data`, which hide from the version counter, and those into parameters made
    under `torch.inference_mode()`, which have none. A module replaced by another one is for a `hosts.guard.Guard` to
    notice.
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
        self._attributes = [module.__dict__ for module, _ in parameters]
        self._names = [name for _, name in parameters]
        self._build = build
        # One object, replaced when the next is complete: no other thread, and nobody after a `build` that failed, gets
        # a value that is not of the versions beside it.
        self._state: _State[T] | None = None
        self._steps = 0  # of optimisers that have one of the parameters
        _WATCHED.add(self)

    def stepped(self, parameters: Set[int]) -> None:
        """Take note that an optimiser has written to the parameters of these ids."""
        if any(id(module._parameters.get(name)) in parameters for module, name in self._parameters):
            self._steps += 1

    @torch.compiler.disable  # addresses and version counters mean nothing to a tracer
    def get(self) -> T:
        steps, state = self._steps, self._state
        if state is not None and state.steps == steps and self._holds_natively(state):
            return state.value
        current: list[Any] = [module._parameters.get(name) for module, name in self._parameters]
        if not is_plain(current):
            raise ValueError(self._not_plain(current))
        addresses, versions = [*map(Tensor.data_ptr, current)], [*map(version_of, current)]
        if state is None or not state.is_of(current, addresses, versions, steps):
            if state is None and any(map(Tensor.is_inference, current)):
                _tell_of_uncounted_writes()
            seen, kinds = [parameter.detach() for parameter in current], [*map(type, current)]
            self._state = state = _State(current, kinds, addresses, versions, steps, self._build(*seen), seen)
        return state.value

    def _holds_natively(self, state: _State[T]) -> bool:
        """Return whether the parameters are what they were; False also where that cannot be told."""
        native, _ = _extension.load()
        if native is None:
            return False
        before = state.parameters, state.kinds, state.addresses, state.versions
        try:
            same: bool = native.tensors_hold(self._attributes, self._names, *before, Tensor.data_ptr, VERSION)
        except RuntimeError:  # parameters created under inference_mode count no versions
            return False
        return same

    def _not_plain(self, current: Sequence[Tensor | None]) -> str:
        kind = next(type(tensor) for tensor in current if type(tensor) not in _PLAIN)
        if kind is type(None):
            return self._missing()
        return (
            f"weights of the kind {kind.__module__}.{kind.__qualname__} (quantised, sharded or fake tensors) cannot be "
            "patched, since only PyTorch's own operations know their numbers; the unpatched model serves them"
        )

    def _missing(self) -> str:
        module, name = next((module, name) for module, name in self._parameters if module._parameters.get(name) is None)
        return (
            f"a patched model needs the parameter {name!r} of each of its layers, and {module} has none (made without, "
            "or pruned: torch.nn.utils.prune.remove makes that permanent); the unpatched model serves it"
        )


def _tell_of_uncounted_writes() -> None:
    warnings.warn(
        "weights that were made under torch.inference_mode() count no writes, so that none are noticed: after writing "
        "to them call fastbert_kernels.patch(model) again, or make the model outside of inference_mode",
        RuntimeWarning,
        stacklevel=2,
    )


def is_plain(tensors: Iterable[Tensor | None]) -> bool:
    """Return whether the numbers of tensors are what lies in their memory."""
    return _PLAIN.issuperset(map(type, tensors))


class _Watched:
    """Values derived from parameters, which are told of the steps of optimisers from the first one on."""

    def __init__(self) -> None:
        self._values: weakref.WeakSet[Derived[Any]] = weakref.WeakSet()
        self._registered = False
        self._renew()
        in_forked_children(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def add(self, value: Derived[Any]) -> None:
        with self._lock:
            self._values.add(value)
            if not self._registered:
                register_optimizer_step_post_hook(self._after_step)
                self._registered = True

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():  # compiled steps move the version counters
            return
        with self._lock:
            values = list(self._values)
        if values:
            stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            for value in values:
                value.stepped(stepped)


_WATCHED = _Watched()

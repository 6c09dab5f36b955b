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

from fastbert_kernels.hosts.guard import VERSION, Guard, version_of

T = TypeVar("T")

_PLAIN = {nn.Parameter, Tensor}  # other kinds are quantized, sharded, or without memory


@dataclass(frozen=True)
class _State(Generic[T]):
    """A value and what it was computed from: identities, addresses and version counters of the parameters, and steps of
    optimizers. The parameters and aliases of them keep objects and storages alive, so that a new one cannot come to lie
    at the same address and pass for the old."""

    key: tuple[list[int], list[int], list[int], int]
    value: T
    parameters: list[Tensor]
    seen: list[Tensor]


class Derived(Generic[T]):
    """A value computed once from parameters, and again after any of them changed.

    Noticed: `load_state_dict` and any other in-place write (the version counter moved); `.to(...)` and `.half()` (the
    storage moved); a parameter put in the place of another one, even where it is a view of it; the step of an
    optimizer, whose fused kernels move no counter (it tells us). Not noticed, so that the model has to be patched
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
        self._build = build
        # One object, replaced when the next is complete: no other thread, and nobody after a `build` that failed, gets
        # a value that is not of the versions beside it.
        self._state: _State[T] | None = None
        self._steps = 0  # of optimizers that have one of the parameters
        _WATCHED.add(self)

    def stepped(self, parameters: Set[int]) -> None:
        """Take note that an optimizer has written to the parameters of these ids."""
        if any(id(module._parameters.get(name)) in parameters for module, name in self._parameters):
            self._steps += 1

    @torch.compiler.disable  # addresses and version counters mean nothing to a tracer
    def get(self) -> T:
        steps = self._steps
        try:
            current: list[Any] = [module._parameters[name] for module, name in self._parameters]
            # A model has hundreds of parameters and is asked at every call, hence no Python for each of them.
            if not is_plain(current):
                raise ValueError(self._not_plain(current))
            addresses = [*map(Tensor.data_ptr, current)]
            try:
                versions = [*map(VERSION, current)]
            except RuntimeError:
                # Parameters created under inference_mode count no versions; they cannot be trained either.
                versions = [*map(version_of, current)]
                self._tell_of_uncounted_writes()
        except (KeyError, TypeError):
            raise ValueError(self._missing()) from None
        identities = [*map(id, current)]
        state = self._state
        if state is None or (identities, addresses, versions, steps) != state.key:
            seen = [parameter.detach() for parameter in current]
            self._state = state = _State((identities, addresses, versions, steps), self._build(*seen), current, seen)
        return state.value

    def _tell_of_uncounted_writes(self) -> None:
        if self._state is None:
            warnings.warn(
                "weights that were made under torch.inference_mode() count no writes, so that none are noticed: after "
                "writing to them call fastbert_kernels.patch(model) again, or make the model outside of inference_mode",
                RuntimeWarning,
                stacklevel=2,
            )

    def _not_plain(self, current: Sequence[Tensor | None]) -> str:
        kind = next(type(tensor) for tensor in current if type(tensor) not in _PLAIN)
        if kind is type(None):
            return self._missing()
        return (
            f"weights of the kind {kind.__module__}.{kind.__qualname__} (quantized, sharded or fake tensors) cannot be "
            "patched, since only PyTorch's own operations know their numbers; the unpatched model serves them"
        )

    def _missing(self) -> str:
        module, name = next((module, name) for module, name in self._parameters if module._parameters.get(name) is None)
        return (
            f"a patched model needs the parameter {name!r} of each of its layers, and {module} has none (made without, "
            "or pruned: torch.nn.utils.prune.remove makes that permanent); the unpatched model serves it"
        )


def is_plain(tensors: Iterable[Tensor | None]) -> bool:
    """Return whether the numbers of tensors are what lies in their memory."""
    return _PLAIN.issuperset(map(type, tensors))


class _Watched:
    """Values derived from parameters, which are told of the steps of optimizers from the first one on."""

    def __init__(self) -> None:
        self._values: weakref.WeakSet[Derived[Any]] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._registered = False

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

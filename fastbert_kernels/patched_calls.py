"""How a patched model answers: on the packed engine, or by its own methods where the engine cannot."""

from __future__ import annotations

import copy
import functools
import inspect
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.hosts.base import Host, OwnForward
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.precision import Precision
from fastbert_kernels.threads import survives_fork

PATCH = "_fastbert_patch"  # where a patched instance carries its Patch
ON_DEMAND: Literal["on demand"] = "on demand"  # of `warm_up`
WarmUp = tuple[tuple[int, int, int], ...] | Literal["on demand"]
_ONE_GRAPH = (
    "a tracer or exporter needs one graph for all inputs, but here the data decides which layers run. Serve the "
    "patched model from Python; or unpatch(model) and export it at full depth (fastbert_hf: without speed), or its "
    "backbone alone"
)


@dataclass
class Patch:
    """What a patched instance carries. It holds no module, parameter or buffer of its own: the state dict stays as it
    was."""

    host: Host
    encoder: Derived[Encoder] | None  # None: to be made at the next call
    backend: str
    precision: Precision
    warm_up: WarmUp = ()
    attention: Any = None  # as of `Encoder.attention`
    warm: Encoder | None = None  # the one that was warmed up
    forward: Any = None  # of the model's class, for which the host's answers
    functions: dict[str, Any] = field(default_factory=dict)  # what the instance has as methods, beside the patch
    previous: dict[str, Any] = field(default_factory=dict)  # attributes that the instance itself, not its class, had
    said: set[str] = field(default_factory=set)  # warnings, each of which is given once

    def added(self, model: nn.Module, name: str) -> bool:
        """Return whether an attribute of the instance is the patch's; somebody may have put another in its place."""
        return getattr(model.__dict__.get(name), "__func__", None) is self.functions[name]

    def own(self, model: nn.Module, name: str) -> Any:
        """The method that this patch took the place of."""
        return self.previous.get(name) or types.MethodType(getattr(type(model), name), model)

    @torch.compiler.disable  # identities and counters mean nothing to a tracer
    def current(self, model: nn.Module) -> Encoder:
        """Return the encoder of the model as it is now.

        Raises:
            ValueError: modules were changed so that only they themselves know what they compute.
        """
        if getattr(type(model), "forward", None) is not self.forward:
            raise ValueError(f"the forward of {type(model).__name__} was replaced on the class")
        if self.encoder is None or not self.encoder.guard.intact():
            self.encoder = self.host.encoder(model, self.precision.dtype, self.backend)
        if not self.host.inference_only and self.encoder.guard.in_train_mode():
            raise ValueError(
                "a layer or exit head within it is in train mode, where dropout is active; call model.eval()"
            )
        return self.warmed(model, self.encoder.get())

    def warmed(self, model: nn.Module, encoder: Encoder) -> Encoder:
        """Return an encoder of the model, warmed up, if that was asked for."""
        if self.warm_up and encoder is not self.warm:
            if isinstance(self.warm_up, str):
                encoder.record_on_demand()
            else:
                rules = () if self.host.usual_rules is None else self.host.usual_rules(model)
                entrance = None if self.host.entrance is None else self.host.entrance(model)
                encoder.warm_up(self.warm_up, rules, entrance)
            self.warm = encoder
        return encoder

    def say_once(self, message: str) -> None:
        """Warn the caller of the model, unless the same was said before."""
        if message not in self.said:
            self.said.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=6)

    def __deepcopy__(self, memo: dict[int, Any]) -> Patch:
        return Patch(
            self.host,
            None,  # of the copied model, whose modules nobody has looked at yet
            self.backend,
            self.precision,
            self.warm_up,
            self.attention,
            forward=self.forward,
            functions=self.functions,
            previous=copy.deepcopy(self.previous, memo),
            said=set(self.said),
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a patched model cannot be pickled: call fastbert_kernels.unpatch(model) first. "
            "state_dict() and save_pretrained() work on a patched model"
        )


def make_forward(model: nn.Module) -> Any:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return _forward(self, *args, **kwargs)

    return _dressed(forward, model.forward)


def make_training_method(model: nn.Module, name: str) -> Any:
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        state: Patch = self.__dict__[PATCH]
        state.encoder = None
        return state.own(self, name)(*args, **kwargs)

    return _dressed(method, getattr(model, name))


def make_method(function: Callable[..., Any], own_way: Callable[..., Any] | None) -> Any:
    @survives_fork
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        _refuse_tracers(args, kwargs)
        state: Patch = self.__dict__[PATCH]
        if own_way is None:
            return function(self, state.current(self), *args, **kwargs)
        result = _fast(self, state, function, args, kwargs)
        return own_way(self, *args, **kwargs) if result is NotImplemented else result

    _model, _encoder, *parameters = inspect.signature(function).parameters.values()
    return _dressed(method, function, parameters)


def _dressed(method: Any, original: Callable[..., Any], parameters: Sequence[inspect.Parameter] | None = None) -> Any:
    """`method` with name, documentation and signature (for tools that look at it) of `original`; with the `parameters`
    given, or those of `original`, behind self."""
    functools.update_wrapper(method, original)
    signature = inspect.signature(original)
    receiver = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = tuple(signature.parameters.values()) if parameters is None else parameters
    method.__signature__ = signature.replace(parameters=[receiver, *parameters])
    del method.__wrapped__  # it would tie the method to this instance, also in copies
    return method


def _forward(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    state: Patch | None = model.__dict__.get(PATCH)
    if state is None:  # unpatched by now, and called by what somebody put around this forward
        return type(model).forward(model, *args, **kwargs)
    _refuse_tracers(args, kwargs)
    if state.host.inference_only or not (model.training or torch.is_grad_enabled()):
        result = _fast(model, state, state.host.forward, args, kwargs)
        if result is not NotImplemented:
            return result
    elif not model.training:
        state.say_once(
            "this patched model was called with autograd on, so its own forward answered; "
            "call it under torch.inference_mode() (or torch.no_grad()) for the fast path"
        )
    return state.own(model, "forward")(*args, **kwargs)


@survives_fork
def _fast(
    model: nn.Module, state: Patch, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return what a function of the host answers on the fast path, NotImplemented where the model's own forward has
    to."""
    if _autocast_is_on():
        state.say_once(
            "torch.autocast does not reach the layers of a patched model, which has the precision that patch(model, "
            "dtype=...) gave it"
        )
    try:
        encoder = state.current(model)
    except ValueError as error:
        state.say_once(
            f"this model was changed after patch(model), and its own forward answers from now on, without the fast "
            f"path: {error}"
        )
        return NotImplemented
    try:
        return function(model, encoder, *args, **kwargs)
    except OwnForward as reason:
        state.say_once(f"the model's own forward, not the fast path, answers calls with {reason}")
        return NotImplemented


def _autocast_is_on() -> bool:
    return torch._C._is_any_autocast_enabled()


def _refuse_tracers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise RuntimeError in everything that records one graph for all inputs."""
    if (
        torch.compiler.is_exporting()
        or torch.jit.is_tracing()
        or get_proxy_mode() is not None
        or any(isinstance(value, fx.Proxy) for value in (*args, *kwargs.values()))
    ):
        raise RuntimeError(_ONE_GRAPH)


def extra_repr(model: nn.Module) -> str:
    state: Patch = model.__dict__[PATCH]
    own = state.own(model, "extra_repr")
    mark = f"patched by fastbert_kernels: backend={state.backend}, dtype={state.precision}"
    return f"{own()}\n{mark}" if own() else mark

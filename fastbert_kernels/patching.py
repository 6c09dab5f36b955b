"""`patch(model)` and `unpatch(model)`: the fast path in and out of one model instance."""

from __future__ import annotations

import copy
import functools
import inspect
import types
import warnings
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import torch
from torch import nn

from fastbert_kernels import backends
from fastbert_kernels.engine.derived import Derived
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.hosts import find_host
from fastbert_kernels.hosts.base import Host

Model = TypeVar("Model", bound=nn.Module)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
_PATCH = "_fastbert_patch"  # where a patched instance carries its Patch
_REPLACED = ("forward", "extra_repr")


@dataclass
class Patch:
    """What a patched instance carries. It holds no module, parameter or buffer of its own: the state dict stays as it
    was."""

    host: Host
    encoder: Derived[Encoder]
    backend: str
    dtype: torch.dtype | None
    previous: dict[str, Any] = field(default_factory=dict)  # attributes that the instance itself, not its class, had
    warned: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Patch:
        return Patch(
            self.host,
            copy.deepcopy(self.encoder, memo),
            self.backend,
            self.dtype,
            copy.deepcopy(self.previous, memo),
            self.warned,
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a patched model cannot be pickled: call fastbert_kernels.unpatch(model) first. "
            "state_dict() and save_pretrained() work on a patched model"
        )


def patch(model: Model, *, backend: str = "auto", dtype: torch.dtype | None = None) -> Model:
    """Makes this one model run on the packed engine, with fused exit heads and compaction.

    The model keeps its parameters, `state_dict()` and call signature, and shows the patch in its `repr`. Later changes
    of its weights are noticed. The fast path serves calls in eval mode with autograd off (`torch.inference_mode()`);
    otherwise the model's own forward answers. Patching again replaces the earlier patch.

    Args:
        model: a FastBERT model of a known implementation (`fastbert_kernels.hosts.HOSTS`).
        backend: "auto" takes the best that the device has; a name of `fastbert_kernels.backends.BACKENDS` insists on
            it.
        dtype: precision of the encoder: float32, bfloat16, float16 or (on a CPU) int8, whose Linear layers multiply
            rounded weights with rows that are rounded as they come; None keeps that of the model's weights.

    Returns:
        The same object.

    Raises:
        TypeError: not a model that can be patched. ValueError: unknown backend or dtype, or one that this device, model
            or backend does not have; or a model of a known implementation that the kernels do not serve (multi-label,
            or with layers or heads of its own). RuntimeError: the named backend is not there. The message says why and
            what to do.
    """
    host = find_host(model)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be None or one of {', '.join(map(str, DTYPES))}, not {dtype}")
    backends.resolve(backend, next(model.parameters()).device)
    encoder = host.encoder(model, dtype, backend)
    encoder.get()  # what is not to be had is refused now, not at the first call

    unpatch(model)
    previous = {name: model.__dict__[name] for name in _REPLACED if name in model.__dict__}
    model.__dict__.update(
        {
            _PATCH: Patch(host, encoder, backend, dtype, previous),
            "forward": types.MethodType(_make_forward(model), model),
            "extra_repr": types.MethodType(_extra_repr, model),
        }
    )
    return model


def unpatch(model: Model) -> Model:
    """Restores the model as it was before `patch`; does nothing to a model that is not patched. Returns the same
    object."""
    state = model.__dict__.get(_PATCH)
    if state is not None:
        for name in (*_REPLACED, _PATCH):
            del model.__dict__[name]
        model.__dict__.update(state.previous)
    return model


def is_patched(model: nn.Module) -> bool:
    """Whether `patch` is in force on this instance."""
    return _PATCH in model.__dict__


def _make_forward(model: nn.Module) -> Any:
    """A method with the signature (for tools that look at it) and the documentation of the model's own forward."""
    original = model.forward

    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return _forward(self, *args, **kwargs)

    signature = inspect.signature(original)
    receiver = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = signature.replace(parameters=[receiver, *signature.parameters.values()])  # type: ignore[attr-defined]
    del forward.__wrapped__  # it would tie the method to this instance, also in copies
    return forward


def _forward(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    state: Patch = model.__dict__[_PATCH]
    if torch.compiler.is_exporting():
        raise RuntimeError(
            "torch.export needs one graph for all inputs, but here the data decides which layers run; export the "
            "backbone alone (all layers, no exits), or serve the patched model from Python"
        )
    if not model.training and not torch.is_grad_enabled():
        result = state.host.forward(model, state.encoder.get(), *args, **kwargs)
        if result is not NotImplemented:
            return result
    elif not model.training and not state.warned:
        state.warned = True
        warnings.warn(
            "this patched model was called with autograd on, so its own forward answered; "
            "call it under torch.inference_mode() (or torch.no_grad()) for the fast path",
            RuntimeWarning,
            stacklevel=5,
        )
    own = state.previous.get("forward") or types.MethodType(type(model).forward, model)
    return own(*args, **kwargs)


def _extra_repr(model: nn.Module) -> str:
    state: Patch = model.__dict__[_PATCH]
    own = state.previous.get("extra_repr") or types.MethodType(type(model).extra_repr, model)
    precision = "as the weights" if state.dtype is None else str(state.dtype).removeprefix("torch.")
    mark = f"patched by fastbert_kernels: backend={state.backend}, dtype={precision}"
    return f"{own()}\n{mark}" if own() else mark

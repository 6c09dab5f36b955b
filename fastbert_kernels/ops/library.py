"""The torch.library namespace `fastbert` and what all ops share.

Schemas are declared from Python, so that the ops exist, with fake kernels and the reference backend, where nothing is
compiled.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.library import infer_schema

from fastbert_kernels import backends
from fastbert_kernels.criteria import check_criterion
from fastbert_kernels.exit_heads import HeadInputs

LIBRARY = torch.library.Library("fastbert", "DEF")

Arguments = ParamSpec("Arguments")
Results = TypeVar("Results")


class Op:
    """An op of the namespace `fastbert`, declared by a function; see `op`."""

    def __init__(self, declare: Callable[..., Any], mutates: Sequence[str], devices: Sequence[str], wide: bool) -> None:
        self.name = declare.__name__
        self._declare = declare
        self._wide = wide
        parameters = inspect.signature(declare).parameters.values()
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "backend"}
        self._implementations: dict[str, Callable[..., Any]] = {}
        self._arguments: Callable[..., Sequence[Any]] | None = None
        LIBRARY.define(infer_schema(declare, mutates_args=mutates, op_name=self.name))
        self.overload = getattr(torch.ops.fastbert, self.name).default
        # `Library.impl` rather than `custom_op`: it costs about a third per call.
        for device in devices:
            LIBRARY.impl(self.name, self._run, device)
            LIBRARY.impl(self.name, self._without_autocast(device.lower()), f"Autocast{device}")
        torch.library.register_fake(f"fastbert::{self.name}", declare, lib=LIBRARY)

    def implement(
        self, implementations: dict[str, Callable[..., Any]], arguments: Callable[..., Sequence[Any]] | None
    ) -> None:
        self._implementations, self._arguments = implementations, arguments
        if "triton" in implementations:
            torch.library.register_torch_dispatch(
                f"fastbert::{self.name}", FunctionalTensorMode, self._show_triton, lib=LIBRARY
            )

    def _run(self, *arguments: Any, backend: str = "auto", **options: Any) -> Any:
        options = {**self._defaults, **options}
        chosen = self._choose(backend, arguments[0])
        if chosen != "reference":
            return self._fill(chosen, arguments, options)
        self._declare(*arguments, **options)
        backends.refuse_reference(self.name, f"{arguments[0].dtype}, backend {backend!r}")
        return self._implementations["reference"](*arguments, **options)

    def _choose(self, backend: str, first: Tensor) -> str:
        chosen = backends.resolve(backend, first.device)
        return "reference" if first.dtype == torch.float64 and not self._wide else chosen

    def _fill(self, chosen: str, arguments: Sequence[Any], options: dict[str, Any], **extra: Any) -> Any:
        results = self._declare(*arguments, **options)
        given: Sequence[Any] = [*map(contiguous, arguments)]
        named = {name: contiguous(option) for name, option in options.items()}
        if self._arguments is not None:
            given, named = self._arguments(*given, **named), {}
        try:
            self._implementations[chosen](results, *given, **named, **extra)
        except backends.Unsupported as reason:
            backends.warn_about_fallback(self.name, str(reason))
            return self._implementations["reference"](*arguments, **options)
        return results

    def _without_autocast(self, device_type: str) -> Callable[..., Any]:
        """The op in the precision of its arguments: native code reads what PyTorch computes in between, which would be
        of another dtype under autocast."""

        def kernel(*arguments: Any, **options: Any) -> Any:
            with torch.autocast(device_type, enabled=False):
                return self.overload(*arguments, **options)

        return kernel

    def _show_triton(self, mode: Any, op: Any, types: Any, arguments: Any, options: dict[str, Any]) -> Any:
        """Let torch.compile see the Triton kernels, where they run, instead of an opaque call.

        What `torch.library.triton_op` does for its ops: decompose when AOTAutograd makes the graph functional.
        """
        from torch.export._trace import custom_triton_ops_decomposition_disabled

        known = {**self._defaults, **options}
        chosen = self._choose(known.pop("backend", "auto"), arguments[0])
        if chosen != "triton" or custom_triton_ops_decomposition_disabled():  # the latter for export
            return mode.__torch_dispatch__(op, types, arguments, options)
        with mode:
            return self._fill("triton", arguments, known, wrap=torch.library.wrap_triton)


_OPS: dict[str, Op] = {}


def op(
    *, mutates: Sequence[str] = (), devices: Sequence[str] = ("CPU", "CUDA"), wide: bool = False
) -> Callable[[Callable[Arguments, Results]], Callable[Arguments, Results]]:
    """Make an op of the function below, and of that name a function that calls it through the dispatcher.

    The function declares name, signature and documentation. Its body checks the arguments and returns the results
    uninitialised, which makes it the fake kernel too; `implement` says what fills them.

    Args:
        mutates: arguments that are written in place.
        devices: dispatch keys of its tensors.
        wide: the kernels take float64; else such tensors (by the first argument) are the reference's.
    """

    def register(declare: Callable[Arguments, Results]) -> Callable[Arguments, Results]:
        registered = _OPS[declare.__name__] = Op(declare, mutates, devices, wide)

        @functools.wraps(declare)
        def call(*arguments: Arguments.args, **options: Arguments.kwargs) -> Results:
            return registered.overload(*arguments, **options)

        return call

    return register


def implement(
    op: Callable[..., Any],
    *,
    arguments: Callable[..., Sequence[Any]] | None = None,
    **implementations: Callable[..., Any],
) -> None:
    """Set what runs on each backend.

    `reference(*arguments, **options)` returns the results. The others fill theirs, of contiguous tensors:
    `implementation(results, *arguments, **options)`. Where one does not cover these arguments it raises
    `backends.Unsupported` with the reason, and the reference takes them.

    Args:
        arguments: (*arguments, **options) -> what those others take behind the results, in place of both.
    """
    _OPS[op.__name__].implement(implementations, arguments)


def head_arguments(head_of: Callable[..., Any]) -> Callable[..., tuple[HeadInputs, Any]]:
    """Return what puts the arguments of the op of an exit head together, for `implement`.

    Args:
        head_of: (*weights, **options) -> the head, of the op's weights and its options but for those of the decision.
    """

    def arguments(
        hidden: Tensor, cu_seqlens: Tensor, speed: Tensor, *weights: Any, **options: Any
    ) -> tuple[HeadInputs, Any]:
        decision = (options.pop(name) for name in ("history", "criterion", "parameter"))
        return HeadInputs(hidden, cu_seqlens, speed, *decision), head_of(*weights, **options)

    return arguments


def triton(name: str) -> Callable[..., None]:
    """The implementation of that name in `fastbert_kernels.triton`, which is imported when it is first called."""

    def implementation(*arguments: Any, **options: Any) -> None:
        getattr(importlib.import_module("fastbert_kernels.triton"), name)(*arguments, **options)

    return implementation


def check_tensor(name: str, tensor: Tensor, device: torch.device, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    """Raise ValueError or TypeError where `tensor` is not of this shape, one of these dtypes and on this device."""
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, not {list(tensor.shape)}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(map(str, dtypes))}, not {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, not on {device}; move it there first")


def check_choice(name: str, choice: str, *allowed: str) -> None:
    """Raise ValueError where `choice` is none of those `allowed`."""
    if choice not in allowed:
        raise ValueError(f"unknown {name} {choice!r}; choose one of {', '.join(allowed)}")


def check_head_inputs(
    hidden: Tensor, cu_seqlens: Tensor, speed: Tensor, history: Tensor | None, criterion: str, parameter: int
) -> None:
    """Check what every exit head takes."""
    if hidden.dim() != 2 or not hidden.is_floating_point():
        raise ValueError(f"hidden must be [T, H] floating point, not {list(hidden.shape)} {hidden.dtype}")
    if speed.dim() != 1:
        raise ValueError(f"speed must have shape [B], not {list(speed.shape)}")
    batch, device = speed.shape[0], hidden.device
    check_tensor("speed", speed, device, (batch,), torch.float32)
    check_tensor("cu_seqlens", cu_seqlens, device, (batch + 1,), torch.int32)
    if history is not None:
        check_tensor("history", history, device, (batch, 2), torch.int32)
    check_criterion(criterion, parameter)


def decision_results(hidden: Tensor, batch: int, labels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logits, uncertainty, history and keep, uninitialised."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return (
        hidden.new_empty(batch, labels, dtype=dtype),
        hidden.new_empty(batch, dtype=dtype),
        hidden.new_empty(batch, 2, dtype=torch.int32),
        hidden.new_empty(batch, dtype=torch.bool),
    )


def aligned(*tensors: Tensor) -> list[Tensor]:
    """Return each tensor, contiguous as they are, at an address that 16 divides.

    The CUDA kernels read 16 bytes at a time, and a view into a larger tensor may begin anywhere.
    """
    return [tensor if tensor.data_ptr() % 16 == 0 else tensor.clone() for tensor in tensors]


def contiguous(value: Any) -> Any:
    """Return a tensor contiguous, a list of them too, and everything else as it is."""
    if isinstance(value, Tensor):
        return value.contiguous()
    return [tensor.contiguous() for tensor in value] if isinstance(value, list) else value

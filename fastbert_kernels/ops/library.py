"""The torch.library namespace `fastbert` and what all ops share.

Schemas are declared from Python, so that the ops exist, with fake kernels and the reference backend, where nothing is
compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode

from fastbert_kernels import _extension, backends
from fastbert_kernels.criteria import Criterion, check_criterion
from fastbert_kernels.reference import ACTIVATIONS

LIBRARY = torch.library.Library("fastbert", "DEF")

# Arguments that the ops with an exit decision have in common, after their own.
DECISION_SCHEMA = "Tensor? history=None, str criterion='entropy', int parameter=0, str backend='auto'"
DECISION_RESULT = "(Tensor logits, Tensor uncertainty, Tensor history, Tensor keep)"

# The values of `enum class Activation` in csrc/activation.h.
ACTIVATION_CODES = {name: code for code, name in enumerate(ACTIVATIONS)}


def register(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any], *dispatch_keys: str) -> None:
    """Declares the op of `schema` with one kernel for the tensors of `dispatch_keys` and a fake kernel.

    `Library.impl` rather than `custom_op`: it costs about a third per call.
    """
    name = schema.split("(", 1)[0]
    LIBRARY.define(schema)
    for dispatch_key in dispatch_keys:
        LIBRARY.impl(name, kernel, dispatch_key)
        LIBRARY.impl(name, _without_autocast(name, dispatch_key.lower()), f"Autocast{dispatch_key}")
    torch.library.register_fake(f"fastbert::{name}", fake, lib=LIBRARY)


def _without_autocast(name: str, device_type: str) -> Callable[..., Any]:
    """The op in the precision of its arguments: native code takes the addresses of what PyTorch computes in between,
    which would be of another dtype under autocast."""
    op = getattr(torch.ops.fastbert, name)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, enabled=False):
            return op(*args, **kwargs)

    return kernel


def show_triton(name: str) -> None:
    """Lets torch.compile see the Triton kernels of op `name`, where they run, instead of an opaque call.

    What `torch.library.triton_op` does for its ops: decompose when AOTAutograd makes the graph functional.
    """

    def decompose(mode, op, types, args, kwargs):
        from torch.export._trace import custom_triton_ops_decomposition_disabled

        options = dict(kwargs)
        backend = options.pop("backend", "auto")
        options.pop("projection_packed", None)  # for CPUs
        hidden = args[0]
        opaque = custom_triton_ops_decomposition_disabled() or hidden.dtype == torch.float64  # export; reference
        if opaque or backends.resolve(backend, hidden.device) != "triton":
            return mode.__torch_dispatch__(op, types, args, kwargs)
        from fastbert_kernels import triton

        with mode:
            return getattr(triton, name)(*args, wrap=torch.library.wrap_triton, **options)

    torch.library.register_torch_dispatch(f"fastbert::{name}", FunctionalTensorMode, decompose, lib=LIBRARY)


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, not {list(tensor.shape)}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(map(str, dtypes))}, not {tensor.dtype}")


def check_device(device: torch.device, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, not on {device}; move it there first")


def check_activation(name: str, activation: str, *allowed: str) -> None:
    if activation not in allowed:
        raise ValueError(f"unknown {name} {activation!r}; choose one of {', '.join(allowed)}")


def check_head_inputs(
    hidden: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    history: Tensor | None,
    criterion: str,
    parameter: int,
) -> int:
    """Checks what every exit head takes; returns the number of samples B."""
    if hidden.dim() != 2 or not hidden.is_floating_point():
        raise ValueError(f"hidden must be [T, H] floating point, not {list(hidden.shape)} {hidden.dtype}")
    if speed.dim() != 1:
        raise ValueError(f"speed must have shape [B], not {list(speed.shape)}")
    batch = speed.shape[0]
    check_shape("speed", speed, (batch,), torch.float32)
    check_shape("cu_seqlens", cu_seqlens, (batch + 1,), torch.int32)
    if history is not None:
        check_shape("history", history, (batch, 2), torch.int32)
        check_device(hidden.device, history=history)
    check_device(hidden.device, cu_seqlens=cu_seqlens, speed=speed)
    check_criterion(criterion, parameter)
    return batch


def decision_outputs(hidden: Tensor, batch: int, labels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised logits, uncertainty, history and keep."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return (
        hidden.new_empty(batch, labels, dtype=dtype),
        hidden.new_empty(batch, dtype=dtype),
        hidden.new_empty(batch, 2, dtype=torch.int32),
        hidden.new_empty(batch, dtype=torch.bool),
    )


def native_decision(
    speed: Tensor,
    history: Tensor | None,
    outputs: tuple[Tensor, ...],
    criterion: str = "entropy",
    parameter: int = 0,
) -> tuple[Any, Any]:
    """The structs of csrc/decision.h; `speed` and `history` must be contiguous and outlive the call."""
    native = _extension.module()
    previous = 0 if history is None else history.data_ptr()
    decision = native.Decision(Criterion(criterion).code, parameter, speed.data_ptr(), previous)
    return decision, native.DecisionOutputs(*(output.data_ptr() for output in outputs))


def contiguous(*tensors: Tensor | None) -> list[Any]:
    """Each tensor contiguous; None stays None."""
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def aligned(*tensors: Tensor) -> list[Tensor]:
    """Each contiguous and at an address that 16 divides: the CUDA kernels read 16 bytes at a time, and a view into a
    larger tensor may begin anywhere."""
    return [tensor if tensor.data_ptr() % 16 == 0 else tensor.clone() for tensor in contiguous(*tensors)]


def current_stream(device: torch.device) -> int:
    """The address of torch's current stream on `device`, as the launchers take it."""
    return torch.cuda.current_stream(device).cuda_stream

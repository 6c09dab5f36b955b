"""The torch.library namespace `fastbert` and what all ops share. Schemas are declared from Python, so that the ops
exist (with fake kernels and the reference backend) where nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("fastbert", "DEF")


def register(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Declares the op of `schema` with one kernel for CPU and CUDA tensors (it chooses the backend) and a fake kernel.

    `Library.impl` rather than `custom_op`: it costs about a third per call.
    """
    name = schema.split("(", 1)[0]
    LIBRARY.define(schema)
    for dispatch_key in ("CPU", "CUDA"):
        LIBRARY.impl(name, kernel, dispatch_key)
    torch.library.register_fake(f"fastbert::{name}", fake, lib=LIBRARY)


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, not {list(tensor.shape)}")
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, not {tensor.dtype}")


def check_device(device: torch.device, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, but hidden is on {device}; move it there first")


def current_stream(device: torch.device) -> int:
    """The address of torch's current stream on `device`, as the launchers take it."""
    return torch.cuda.current_stream(device).cuda_stream

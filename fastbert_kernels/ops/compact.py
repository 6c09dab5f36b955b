"""`torch.ops.fastbert.compact`: survivors move together, in order; the results of the others go to their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import _extension, backends, reference
from fastbert_kernels.ops import library

SCHEMA = (
    "compact(Tensor hidden, Tensor cu_seqlens, Tensor keep, Tensor sample_index, Tensor speed, Tensor history, "
    "Tensor logits, Tensor uncertainty, int layer, "
    "Tensor(a!) out_logits, Tensor(b!) out_uncertainty, Tensor(c!) out_exit_layer, *, str backend='auto') -> "
    "(Tensor hidden, Tensor cu_seqlens, Tensor sample_index, Tensor speed, Tensor history, Tensor counts)"
)


def compact(
    hidden: Tensor,
    cu_seqlens: Tensor,
    keep: Tensor,
    sample_index: Tensor,
    speed: Tensor,
    history: Tensor,
    logits: Tensor,
    uncertainty: Tensor,
    layer: int,
    out_logits: Tensor,
    out_uncertainty: Tensor,
    out_exit_layer: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Stable compaction of a packed batch, without asking the host how many survive.

    Args:
        hidden: [T, H] float32, bfloat16, float16, float64 or int8.
        cu_seqlens: [B + 1] int32. keep: [B] bool. sample_index: [B] int32, each sample's row in the original batch.
        speed, uncertainty: [B] float32. logits: [B, N] float32. history: [B, 2] int32, as `exit_head` returns it.
        layer: number of layers executed so far, written as exit layer of the samples that leave.
        out_logits: [B0, N] float32, out_uncertainty: [B0] float32, out_exit_layer: [B0] int64: results of the original
            batch, contiguous; the rows `sample_index[b]` of leaving samples are written in place.
        backend: "auto" or a name of `fastbert_kernels.backends.BACKENDS`.

    Returns:
        hidden [T, H], cu_seqlens [B + 1], sample_index [B], speed [B], history [B, 2]: the B' survivors in order at
        the front, in tensors of the old capacity (entries of cu_seqlens after B' repeat T', sample_index, speed and
        history are 0 there, rows from T' on are undefined); counts [2] int32 = (B', T'), on the device.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices do not fit. RuntimeError: a named backend is not there.
    """
    return torch.ops.fastbert.compact(
        hidden,
        cu_seqlens,
        keep,
        sample_index,
        speed,
        history,
        logits,
        uncertainty,
        layer,
        out_logits,
        out_uncertainty,
        out_exit_layer,
        backend=backend,
    )


def _check(
    hidden: Tensor,
    cu_seqlens: Tensor,
    keep: Tensor,
    sample_index: Tensor,
    speed: Tensor,
    history: Tensor,
    logits: Tensor,
    uncertainty: Tensor,
    layer: int,
    out_logits: Tensor,
    out_uncertainty: Tensor,
    out_exit_layer: Tensor,
) -> None:
    if hidden.dim() != 2 or keep.dim() != 1 or logits.dim() != 2 or out_logits.dim() != 2:
        raise ValueError(
            f"hidden must be [T, H], keep [B], logits [B, N] and out_logits [B0, N], not {list(hidden.shape)}, "
            f"{list(keep.shape)}, {list(logits.shape)}, {list(out_logits.shape)}"
        )
    batch, labels, original = keep.shape[0], logits.shape[1], out_logits.shape[0]
    library.check_shape("cu_seqlens", cu_seqlens, (batch + 1,), torch.int32)
    library.check_shape("keep", keep, (batch,), torch.bool)
    library.check_shape("sample_index", sample_index, (batch,), torch.int32)
    library.check_shape("speed", speed, (batch,), torch.float32)
    library.check_shape("history", history, (batch, 2), torch.int32)
    library.check_shape("logits", logits, (batch, labels), torch.float32)
    library.check_shape("uncertainty", uncertainty, (batch,), torch.float32)
    library.check_shape("out_logits", out_logits, (original, labels), torch.float32)
    library.check_shape("out_uncertainty", out_uncertainty, (original,), torch.float32)
    library.check_shape("out_exit_layer", out_exit_layer, (original,), torch.int64)
    library.check_device(
        hidden.device,
        cu_seqlens=cu_seqlens,
        keep=keep,
        sample_index=sample_index,
        speed=speed,
        history=history,
        logits=logits,
        uncertainty=uncertainty,
        out_logits=out_logits,
        out_uncertainty=out_uncertainty,
        out_exit_layer=out_exit_layer,
    )
    for name, tensor in (
        ("out_logits", out_logits),
        ("out_uncertainty", out_uncertainty),
        ("out_exit_layer", out_exit_layer),
    ):
        if not tensor.is_contiguous():
            raise ValueError(f"{name} is written in place and must be contiguous")


def _kernel(*arguments, backend: str = "auto"):
    _check(*arguments)
    chosen = backends.resolve(backend, arguments[0].device)
    if chosen == "reference":
        backends.refuse_reference("compact", f"backend {backend!r}")
    return IMPLEMENTATIONS[chosen](*arguments)


def _fake(*arguments, backend: str = "auto"):
    _check(*arguments)
    return _outputs(arguments[0], arguments[2].shape[0])


def _outputs(hidden: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(hidden, memory_format=torch.contiguous_format),
        hidden.new_empty(batch + 1, dtype=torch.int32),
        hidden.new_empty(batch, dtype=torch.int32),
        hidden.new_empty(batch, dtype=torch.float32),
        hidden.new_empty(batch, 2, dtype=torch.int32),
        hidden.new_empty(2, dtype=torch.int32),
    )


def _native(*arguments: Any) -> tuple[Tensor, ...]:
    """The compiled kernels of both devices."""
    *inputs, layer, out_logits, out_uncertainty, out_exit_layer = arguments
    hidden, _, keep, *_ = inputs
    outputs = _outputs(hidden, keep.shape[0])
    _extension.module().compact(
        *library.contiguous(*inputs), layer, out_logits, out_uncertainty, out_exit_layer, outputs
    )
    return outputs


def _triton(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    from fastbert_kernels.triton import compact

    return compact(*arguments, **options)


IMPLEMENTATIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "cuda": _native,
    "triton": _triton,
    "cpu": _native,
    "reference": reference.compact,
}
library.register(SCHEMA, _kernel, _fake, "CPU", "CUDA")
library.show_triton("compact")

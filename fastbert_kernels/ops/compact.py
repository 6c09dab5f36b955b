"""`torch.ops.fastbert.compact`: survivors move together, in order; the results of the others go to their place."""

from __future__ import annotations

import torch
from torch import Tensor

from fastbert_kernels import _extension, reference
from fastbert_kernels.ops import library


@library.op(mutates=("out_logits", "out_uncertainty", "out_exit_layer"), wide=True)
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
        cu_seqlens: [B + 1] int32.
        keep: [B] bool.
        sample_index: [B] int32, each sample's row in the original batch.
        speed: [B] float32.
        history: [B, 2] int32, as `attentive_head` returns it.
        logits: [B, N] float32.
        uncertainty: [B] float32.
        layer: number of layers executed so far, written as exit layer of the samples that leave.
        out_logits: [B0, N] float32, results of the original batch, contiguous; the rows `sample_index[b]` of leaving
            samples are written in place.
        out_uncertainty: [B0] float32, likewise.
        out_exit_layer: [B0] int64, likewise.
        backend: "auto" or a name of `fastbert_kernels.backends.BACKENDS`.

    Returns:
        hidden [T, H], cu_seqlens [B + 1], sample_index [B], speed [B], history [B, 2]: the B' survivors in order at
        the front, in tensors of the old capacity (entries of cu_seqlens after B' repeat T', sample_index, speed and
        history are 0 there, rows from T' on are undefined); counts [2] int32 = (B', T'), on the device.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices do not fit, or on a CPU `cu_seqlens` leaves the rows.
        IndexError: on a CPU, a `sample_index` outside the original batch. On a GPU, where nobody waits to see either,
            nothing is moved or written, and both counts are -1.
        RuntimeError: a named backend is not available.
    """
    if hidden.dim() != 2 or keep.dim() != 1 or logits.dim() != 2 or out_logits.dim() != 2:
        raise ValueError(
            f"hidden must be [T, H], keep [B], logits [B, N] and out_logits [B0, N], not {list(hidden.shape)}, "
            f"{list(keep.shape)}, {list(logits.shape)}, {list(out_logits.shape)}"
        )
    check, device = library.check_tensor, hidden.device
    batch, labels, original = keep.shape[0], logits.shape[1], out_logits.shape[0]
    check("cu_seqlens", cu_seqlens, device, (batch + 1,), torch.int32)
    check("keep", keep, device, (batch,), torch.bool)
    check("sample_index", sample_index, device, (batch,), torch.int32)
    check("speed", speed, device, (batch,), torch.float32)
    check("history", history, device, (batch, 2), torch.int32)
    check("logits", logits, device, (batch, labels), torch.float32)
    check("uncertainty", uncertainty, device, (batch,), torch.float32)
    check("out_logits", out_logits, device, (original, labels), torch.float32)
    check("out_uncertainty", out_uncertainty, device, (original,), torch.float32)
    check("out_exit_layer", out_exit_layer, device, (original,), torch.int64)
    if not (out_logits.is_contiguous() and out_uncertainty.is_contiguous() and out_exit_layer.is_contiguous()):
        raise ValueError("out_logits, out_uncertainty and out_exit_layer are written in place and must be contiguous")
    return empty_survivors(hidden, batch)


def empty_survivors(hidden: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Make room for what `compact` returns; arguments of it, B of `batch`."""
    return (
        torch.empty_like(hidden, memory_format=torch.contiguous_format),
        hidden.new_empty(batch + 1, dtype=torch.int32),
        hidden.new_empty(batch, dtype=torch.int32),
        hidden.new_empty(batch, dtype=torch.float32),
        hidden.new_empty(batch, 2, dtype=torch.int32),
        hidden.new_empty(2, dtype=torch.int32),
    )


def _native(results: tuple[Tensor, ...], *arguments: Tensor | int) -> None:
    """Fill the results on a CPU or a GPU."""
    _extension.module().compact(*arguments, results)


library.implement(compact, cuda=_native, triton=library.triton("compact"), cpu=_native, reference=reference.compact)

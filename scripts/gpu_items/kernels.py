"""Single ops: right against float64, and how long at the size of a large batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import ops, reference
from gpu_items.device import Device
from helpers.accuracy import check_compaction
from helpers.op_inputs import (
    attentive_head_inputs,
    cast_attentive_head_inputs,
    compaction_inputs,
    map_tensors,
    pooled_inputs,
)

LENGTHS = [1, 5, 64, 100, 2, 63, 65, 129, 300, 0]
LARGE = [128] * 128


def attentive_head(
    backend: str,
    dtype: torch.dtype,
    device: Device,
    *,
    activation: str = "tanh",
    sizes: tuple[int, int, int, int] = (768, 128, 2, 2),
    fold: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Try one kernel of the attentive head.

    Args:
        backend: whose kernel it is.
        dtype: of the hidden states.
        device: where.
        activation: of both.
        sizes: hidden size, narrow size, heads, labels.
        fold: dtype of query and value.
    """
    options: dict[str, Any] = {"narrow_activation": activation, "mlp_activation": activation}

    def inputs(lengths: list[int]) -> list[Any]:
        torch.manual_seed(0)
        *rows, head = cast_attentive_head_inputs(attentive_head_inputs(lengths, *sizes), dtype)
        return device.move([*rows, head._replace(query=head.query.to(fold), value=head.value.to(fold))])

    def run(arguments: list[Any]) -> tuple[Tensor, ...]:
        return ops.attentive_head(*arguments, **options, backend=device.backend(backend))

    small = inputs(LENGTHS)
    want = reference.attentive_head(*_wide(small), **options)[0]
    plain = reference.attentive_head(*small, **options)[0]
    large = small if device.is_small else inputs(LARGE)
    return {**_compare(run(small)[0], want, plain), **device.time(lambda: run(large))}


def pooled_exit_head(backend: str, dtype: torch.dtype, pooling: str, device: Device) -> dict[str, Any]:
    """Try one kernel of the pooled head, with two layers."""

    def inputs(lengths: list[int]) -> list[Any]:
        torch.manual_seed(0)
        return device.move(pooled_inputs(lengths, (768, 768, 2), dtype))

    def run(arguments: list[Any]) -> tuple[Tensor, ...]:
        return ops.pooled_exit_head(*arguments, pooling=pooling, backend=device.backend(backend))

    small = inputs(LENGTHS)
    want = reference.pooled_exit_head(*_wide(small), pooling=pooling)[0]
    plain = reference.pooled_exit_head(*small, pooling=pooling)[0]
    large = small if device.is_small else inputs(LARGE)
    return {**_compare(run(small)[0], want, plain), **device.time(lambda: run(large))}


def compaction(backend: str, dtype: torch.dtype, device: Device) -> dict[str, Any]:
    """Try one compaction kernel; an exact comparison, so an error is an exception."""
    torch.manual_seed(0)
    samples = 17 if device.is_small else 257
    lengths, keep = torch.randint(0, 130, (samples,)).tolist(), (torch.rand(samples) < 0.5).tolist()
    inputs = device.move(compaction_inputs(lengths, keep, width=768, dtype=dtype))
    check_compaction(inputs, device.backend(backend))
    return {"ok": True, **device.time(lambda: ops.compact(*inputs, backend=device.backend(backend)))}


def _wide(inputs: list[Any]) -> list[Any]:
    """Return the same values in float64, but for the Speeds."""
    hidden, cu_seqlens, speed, *weights = inputs
    return [hidden.double(), cu_seqlens, speed, *map_tensors(torch.Tensor.double, weights)]


def _compare(got: Tensor, want: Tensor, plain: Tensor) -> dict[str, Any]:
    """Judge logits [B, N] by those of float64 and by the error of plain PyTorch in the same dtype."""

    def error(logits: Tensor) -> float:
        return float((logits.double() - want).abs().nan_to_num(0).max())

    finite = torch.equal(got.isnan(), want.isnan())
    allowed = 2 * error(plain) + 1e-2
    return {"ok": finite and error(got) <= allowed, "error": error(got), "error_of_pytorch": error(plain)}

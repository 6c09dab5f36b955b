"""A packed batch: the token rows of all samples one after another, without padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class PackedBatch:
    """The samples still in the encoder.

    Attributes:
        hidden: [T, H]. cu_seqlens: [B + 1] int32, sample b owns the rows cu_seqlens[b] to cu_seqlens[b + 1].
        sample_index: [B] int32, each sample's row in the batch that came in.
        speed: [B] float32.
        history: [B, 2] int32, prediction and streak of the exit head before; None in front of the first.
        max_seqlen: an upper bound of the sample lengths. It is not lowered when long samples leave: that would take a
            host read.
    """

    hidden: Tensor
    cu_seqlens: Tensor
    sample_index: Tensor
    speed: Tensor
    max_seqlen: int
    history: Tensor | None = None

    @classmethod
    def of(cls, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int, speed: float | Tensor) -> PackedBatch:
        """Make a batch in front of the first layer, whose samples are numbered in their order.

        Args:
            hidden: [T, H], the rows of all samples.
            cu_seqlens: int32 [B + 1].
            max_seqlen: an upper bound of the sample lengths.
            speed: of all samples, or floating point [B] on the device of `hidden`.
        """
        size, device = cu_seqlens.shape[0] - 1, hidden.device
        if isinstance(speed, Tensor):
            speeds = speed.float()
        else:
            speeds = torch.full((size,), speed, dtype=torch.float32, device=device)
        return cls(
            hidden=hidden,
            cu_seqlens=cu_seqlens,
            sample_index=torch.arange(size, dtype=torch.int32, device=device),
            speed=speeds,
            max_seqlen=max_seqlen,
        )


@dataclass
class Results:
    """One row per sample of the batch that came in: logits [B, N] float32, uncertainty [B] float32, exit_layer [B]
    int64."""

    logits: Tensor
    uncertainty: Tensor
    exit_layer: Tensor

    @classmethod
    def empty(cls, like: Tensor, batch: int, num_labels: int) -> Results:
        """Uninitialised, on the device of `like`."""
        return cls(
            logits=like.new_empty(batch, num_labels, dtype=torch.float32),
            uncertainty=like.new_empty(batch, dtype=torch.float32),
            exit_layer=like.new_empty(batch, dtype=torch.int64),
        )

"""A packed batch: the token rows of all samples one after another, without padding."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", bound="PackedBatch")


@dataclass
class PackedBatch:
    """The samples still in the encoder.

    Attributes:
        hidden: [T, H].
        cu_seqlens: int32 [B + 1], sample b owns the rows cu_seqlens[b] to cu_seqlens[b + 1].
        sample_index: int32 [B], each sample's row in the results of the span at hand.
        speed: float32 [B].
        max_seqlen: an upper bound of the sample lengths. It is not lowered when long samples leave: that would take a
            host read.
        history: int32 [B, 2], prediction and streak of the exit head before; None in front of the first.
    """

    hidden: Tensor
    cu_seqlens: Tensor
    sample_index: Tensor
    speed: Tensor
    max_seqlen: int
    history: Tensor | None = None

    @classmethod
    def of(cls, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int, speed: float | Tensor) -> PackedBatch:
        """Make a batch in front of the first layer.

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
        return PackedBatch(
            hidden=hidden,
            cu_seqlens=cu_seqlens,
            sample_index=_numbers(size, device),
            speed=speeds,
            max_seqlen=max_seqlen,
        )

    def __len__(self) -> int:
        return self.speed.shape[0]

    def renumber(self) -> None:
        """Number the samples anew, from 0 in their order."""
        self.sample_index = _numbers(len(self), self.speed.device)

    def cut(self, samples: int, tokens: int) -> None:
        """Leave the first samples, which own the first tokens, and nothing of what lies behind them.

        Raises:
            RuntimeError: a negative number, see `check_counts`.
        """
        check_counts(samples)
        self.hidden = self.hidden[:tokens]
        self.cu_seqlens = self.cu_seqlens[: samples + 1]
        self.sample_index = self.sample_index[:samples]
        self.speed = self.speed[:samples]
        self.history = None if self.history is None else self.history[:samples]

    def keep(self, stays: Tensor) -> None:
        """Leave the samples that stay, bool [B], in their order. On a GPU the host waits."""
        lengths = self.cu_seqlens.diff()
        self.hidden = self.hidden[stays.repeat_interleave(lengths.long(), output_size=self.hidden.shape[0])]
        ends = lengths[stays].cumsum(0, dtype=torch.int32)
        self.cu_seqlens = torch.cat([ends.new_zeros(1), ends])
        self.sample_index, self.speed = self.sample_index[stays], self.speed[stays]
        self.history = None if self.history is None else self.history[stays]

    def split(self: Batch, samples: int) -> tuple[Batch, Batch]:
        """Divide the batch behind the first samples; the parts are views of it. On a GPU the host waits.

        Args:
            samples: of the first part, 0..B.
        """
        tokens = int(self.cu_seqlens[samples])
        first = dataclasses.replace(self)
        first.cut(samples, tokens)
        rest = dataclasses.replace(
            self,
            hidden=self.hidden[tokens:],
            cu_seqlens=self.cu_seqlens[samples:] - tokens,
            sample_index=self.sample_index[samples:],
            speed=self.speed[samples:],
            history=None if self.history is None else self.history[samples:],
        )
        return first, rest

    def select(self: Batch, samples: Tensor) -> Batch:
        """Make a batch of some of the samples, of which it has a copy. On a GPU the host waits.

        Args:
            samples: int64 [b], their places, on the device of the batch.
        """
        lengths = self.cu_seqlens.diff()[samples]
        bounds = torch.cat((lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)))
        tokens = int(bounds[-1])
        moves = torch.repeat_interleave(self.cu_seqlens[samples] - bounds[:-1], lengths, output_size=tokens)
        return dataclasses.replace(
            self,
            hidden=self.hidden[moves + torch.arange(tokens, device=moves.device)],
            cu_seqlens=bounds,
            sample_index=self.sample_index[samples],
            speed=self.speed[samples],
            history=None if self.history is None else self.history[samples],
        )

    @classmethod
    def concatenate(cls, batches: Sequence[Any]) -> PackedBatch:
        """Make one batch of the samples of several, on one device and with hidden states of one kind.

        Args:
            batches: at least one, each of this class.
        """
        hidden = torch.cat([batch.hidden for batch in batches])
        ends = itertools.accumulate((batch.hidden.shape[0] for batch in batches), initial=0)
        bounds = [batch.cu_seqlens[:-1] + end for batch, end in zip(batches, ends, strict=False)]
        bounds.append(torch.full((1,), hidden.shape[0], dtype=torch.int32, device=hidden.device))
        speed = torch.cat([batch.speed for batch in batches])
        joined = PackedBatch.of(hidden, torch.cat(bounds), max(batch.max_seqlen for batch in batches), speed)
        joined.history = joined_histories([(len(batch), batch.history) for batch in batches])
        return joined


@dataclass
class Results:
    """One row per sample of a batch.

    Attributes:
        logits: float32 [B, N].
        uncertainty: float32 [B].
        exit_layer: int64 [B].
    """

    logits: Tensor
    uncertainty: Tensor
    exit_layer: Tensor

    @classmethod
    def empty(cls, like: Tensor, batch: int, num_labels: int) -> Results:
        """Make results without content, on the device of `like`."""
        return Results(
            logits=like.new_empty(batch, num_labels, dtype=torch.float32),
            uncertainty=like.new_empty(batch, dtype=torch.float32),
            exit_layer=like.new_empty(batch, dtype=torch.int64),
        )


def joined_histories(parts: Sequence[tuple[int, Tensor | None]]) -> Tensor | None:
    """Return the histories of several batches one behind the other, None where none has any.

    Args:
        parts: the number of samples of each batch, and its history.
    """
    known = next((history for _, history in parts if history is not None), None)
    if known is None:
        return None
    # Where no head was asked yet, a streak of 0 is what it begins with.
    return torch.cat([known.new_zeros(size, 2) if history is None else history for size, history in parts])


def check_counts(samples: int) -> None:
    """Raise RuntimeError for the -1 survivors by which `ops.compact` says on a GPU that its batch was none."""
    if samples < 0:
        raise RuntimeError("cu_seqlens leaves the rows of the batch, or sample_index the original batch")


def _numbers(size: int, device: torch.device) -> Tensor:
    return torch.arange(size, dtype=torch.int32, device=device)

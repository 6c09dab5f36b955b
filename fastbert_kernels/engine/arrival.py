"""Samples as they come to a pool: checked, and not embedded before somebody computes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastbert_kernels.criteria import WITH_HISTORY
from fastbert_kernels.engine.packed import PackedBatch, joined_histories
from fastbert_kernels.engine.rule import Rule


@dataclass(frozen=True)
class Arrival:
    """B samples that came together.

    Attributes:
        texts: what is embedded, in the form that the pool's `embed` takes.
        lengths: of each sample, in tokens.
        speed: float32 [B], on the encoder's device.
        rule: by which they leave.
        history: int32 [B, 2], as of `PackedBatch`, where a head before the first layer was asked.
    """

    texts: Any
    lengths: Sequence[int]
    speed: Tensor
    rule: Rule
    history: Tensor | None = None

    layer: ClassVar[int] = 0  # that they have behind them

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """T, of all samples together."""
        return sum(self.lengths)

    def in_company(self) -> Arrival:
        """Return samples with the same answers; those of full depth share their layers with others who may leave."""
        if self.rule.early_exits or self.rule.criterion in WITH_HISTORY:
            return self
        # No uncertainty is below 0.
        everybody = Rule(self.rule.criterion, self.rule.parameter)
        return dataclasses.replace(self, speed=torch.zeros_like(self.speed), rule=everybody)


def batch_of(hidden: Tensor, arrivals: Sequence[Arrival]) -> PackedBatch:
    """Make the batch of some arrivals in front of the first layer, in their order.

    Args:
        hidden: [T, H], their rows.
        arrivals: at least one, of one rule.
    """
    lengths = list(itertools.chain.from_iterable(arrival.lengths for arrival in arrivals))
    bounds = torch.tensor([*itertools.accumulate(lengths, initial=0)], dtype=torch.int32, device=hidden.device)
    speed = torch.cat([arrival.speed for arrival in arrivals])
    batch = PackedBatch.of(hidden, bounds, max(lengths), speed)
    batch.history = joined_histories([(len(arrival), arrival.history) for arrival in arrivals])
    return batch


def parts(lengths: Sequence[int], most: int) -> Iterator[int]:
    """Yield how many samples in a row have at most so many tokens together, until there are none left; a longer sample
    is a part of its own."""
    samples = tokens = 0
    for length in lengths:
        if samples > 0 and tokens + length > most:
            yield samples
            samples = tokens = 0
        samples, tokens = samples + 1, tokens + length
    if samples > 0:
        yield samples

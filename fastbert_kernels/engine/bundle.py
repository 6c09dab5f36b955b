"""What a pool's schedule moves: see `engine.schedule.Movable`."""

from __future__ import annotations

from dataclasses import dataclass

from fastbert_kernels.engine.arrival import Arrival
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.engine.spans import PackedState


@dataclass(frozen=True)
class Bundle:
    """Samples that move together.

    Attributes:
        samples: an arrival until their first step.
        due: the first of their deadlines, infinity for none.
        numbers: by which the pool knows them, in order.
    """

    samples: Arrival | PackedState
    due: float
    numbers: list[int]

    @property
    def layer(self) -> int:
        return self.samples.layer

    @property
    def rule(self) -> Rule:
        return self.samples.rule

    @property
    def tokens(self) -> int:
        return self.samples.tokens

    @property
    def age(self) -> int:
        return min(self.numbers)

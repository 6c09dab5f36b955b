"""The part of a rule that recorded graphs have fixed, and where the graphs are kept."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fastbert_kernels.criteria import Criterion
from fastbert_kernels.engine.buckets import Bucket
from fastbert_kernels.engine.recorders import Stage
from fastbert_kernels.engine.rule import ENTROPY_RULE, Rule, asked_layers
from fastbert_kernels.engine.weights import ExitHead


@dataclass(frozen=True)
class Plan:
    """All of a rule but its Speeds.

    Attributes:
        decision: the rule's criterion and parameter.
        limited: whether layers have a Speed.
        exits: the layers whose head is asked, ascending; the last layer is always among them.
    """

    decision: Rule
    limited: bool
    exits: tuple[int, ...]

    @classmethod
    def of(cls, rule: Rule, heads: Sequence[ExitHead | None]) -> Plan | None:
        """Return the plan of a rule, or None where no graph can serve it.

        Full depth shares the plan of the paper's rule, of which it needs one stage from the first layer to the last.
        """
        if not rule.early_exits:
            rule = ENTROPY_RULE
        exits = asked_layers(rule, heads)
        if rule.criterion is Criterion.PATIENCE:
            return None
        return cls(Rule(rule.criterion, rule.parameter), rule.layer_speeds is not None, exits)

    def exit_behind(self, position: int) -> int:
        """Return the number of layers up to the first head behind `position` of them that is asked."""
        return self.exits[bisect.bisect_right(self.exits, position)]

    def spans(self) -> list[tuple[int, int]]:
        """Return the layers between one head that is asked and the next, as (done before, done behind)."""
        return list(itertools.pairwise([0, *self.exits]))


@dataclass(eq=False)
class Place:
    """Where a batch runs: what is recorded of one bucket by one plan.

    Attributes:
        bucket: its capacity.
        plan: its rule.
        limits: see `Bucket.limits`.
        stages: by the layers (done before, done behind).
        chain: replays all of them.
    """

    bucket: Bucket
    plan: Plan
    limits: tuple[Tensor, Tensor]
    stages: dict[tuple[int, int], Stage] = field(default_factory=dict)
    chain: Callable[[], None] | None = None

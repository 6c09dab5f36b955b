"""The part of a rule that recorded graphs have fixed, and where the graphs are kept."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fastbert_kernels.criteria import WITH_HISTORY
from fastbert_kernels.engine.buckets import Bucket
from fastbert_kernels.engine.entrance import EntryInputs
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.recorders import Stage
from fastbert_kernels.engine.rule import Rule, asked_layers
from fastbert_kernels.engine.weights import ExitHead


@dataclass(frozen=True, order=True)
class StageLayers:
    """The layers that a stage runs.

    Attributes:
        first: number of layers done before.
        end: number of layers done behind.
        asks: whether the head behind the last of them is asked.
    """

    first: int
    end: int
    asks: bool


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

        Full depth shares the plan of the rule with exits: it needs stages that ask no head, which any plan may have.
        """
        if not rule.early_exits:
            rule = Rule(rule.criterion, rule.parameter)
        exits = asked_layers(rule, heads)
        if rule.criterion in WITH_HISTORY:
            return None
        return cls(Rule(rule.criterion, rule.parameter), rule.layer_speeds is not None, exits)

    def stages(self) -> list[StageLayers]:
        """Return the layers from one head that is asked to the next."""
        return [StageLayers(first, end, asks=True) for first, end in itertools.pairwise([0, *self.exits])]

    def layers_before(self, position: int) -> StageLayers | None:
        """Return the one of `stages()` that ends where `position` layers are done, None where none does."""
        return next((layers for layers in self.stages() if layers.end == position), None)

    def next_layers(self, position: int, until: int, *, nobody_leaves: bool) -> StageLayers:
        """Return the layers of the next stage of a span.

        Args:
            position: number of layers that are done.
            until: number of layers that are done behind the span.
            nobody_leaves: whether no head but the last needs to be asked.
        """
        if nobody_leaves:
            return StageLayers(position, until, asks=until == self.exits[-1])
        exit_behind = self.exits[bisect.bisect_right(self.exits, position)]
        return StageLayers(position, min(until, exit_behind), asks=until >= exit_behind)


@dataclass(frozen=True)
class Entry:
    """A stage in front of the first layer, into which padded calls are copied.

    Attributes:
        key: of the entrance that it has recorded.
        inputs: what a call is copied to.
        stage: packs and embeds it.
        replays: starts the stage and all layers behind it, with early exits (True) and without.
    """

    key: tuple[object, ...]
    inputs: EntryInputs
    stage: Stage
    replays: dict[bool, Callable[[], None]] = field(default_factory=dict)


@dataclass(eq=False)
class Place:
    """Where a batch runs: what is recorded of one bucket by one plan.

    Attributes:
        bucket: its capacity.
        plan: its rule.
        limits: see `Bucket.limits`.
        start: the batch in front of the first layer.
        stages: by their layers.
        chain: replays all of them.
        entry: of padded calls.
    """

    bucket: Bucket
    plan: Plan
    limits: tuple[Tensor, Tensor]
    start: PackedBatch
    stages: dict[StageLayers, Stage] = field(default_factory=dict)
    chain: Callable[[], None] | None = None
    entry: Entry | None = None

"""Which samples of a pool run next: one rule, on numbers alone, so that it can be run against any clock.

Samples that move together are a *bundle*. Bundles that stand behind one layer and leave by one rule form a *group*, and
a step advances some bundles of one group, as one batch, to the next layer that their rule asks. It goes on to a later
one where it would be too short to be worth its while, and to the last where few tokens are through all layers in no
time (`LayerCost.layers_of_a_step`). A step is *full* from `cost.full` tokens on, where more make no token much cheaper.
A bundle is due at the first deadline of its samples, and as old as the oldest of them.

The rule:

1. A group is *overdue* when its oldest bundle has waited in it for `patience` seconds, and for as long no step went to
   it for this reason. Where any group is, the one that has been so for longest goes, its oldest bundles first.
2. Otherwise, a group is *pressed* when its first deadline would pass if the bundle were to wait for one more step and
   then ran to the last layer. Where any is, the one whose deadline is first goes.
3. Otherwise the deepest group that fills a step goes: its samples are the nearest to their answers, and few survive so
   far, so that down there full batches are rare.
4. Otherwise the deepest group goes: its samples have waited for longest, and whoever comes meanwhile gathers in front
   of the first layer. To let those catch up would fill the steps to come, but while none can be filled, that is worth
   less than what it costs the samples that are passed over (`tests/engine/test_schedule.py` has such a load).

By 2 to 4 the bundles that are due first are taken first, then the oldest. They are taken until the step is full; one
with which it would have more than twice as many tokens stays behind, so that no bundle that moves ever has more (but
for a single longer sample): samples that came together and have more are cut when they are taken, the first part goes,
and the rest waits anew, which happens to a sample once. The pool is never idle while a bundle waits.

Nobody starves, whatever arrives, with any deadlines. Let S be the most samples that the pool holds, L the layers, C the
seconds of the longest step and G the most groups at a time (L for each rule in use). A sample has left S L (patience +
(G + 1) C) seconds after it came. For let it wait in a group, whose oldest bundle is then as old as it is or older. If
for `patience` seconds nobody as old moves a layer on, that bundle stays the oldest there and the group is overdue; it
goes when the step at hand is done and the at most G - 1 groups that have been overdue for longer went. So in every
(patience + (G + 1) C) seconds somebody as old moves a layer on. These are at most S samples, with L layers each.

Patience costs little: a group that does not fill its steps takes one in `patience` seconds for it, even under a load
where everybody has waited for long. A due time for each sample would have the pool run the oldest first then, in steps
that are nearly empty, and fall further behind (`tests/engine/test_schedule.py` has that load).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from fastbert_kernels.engine.layer_cost import WHOLE_SECONDS, LayerCost


class Movable(Protocol):
    """What the schedule looks at of a bundle."""

    @property
    def layer(self) -> int:
        """Number of layers behind it, below L."""

    @property
    def rule(self) -> Hashable:
        """By which its samples leave."""

    @property
    def tokens(self) -> int:
        """Of all its samples."""

    @property
    def due(self) -> float:
        """The first deadline of its samples, on the clock of `Schedule.next`; infinity for none."""

    @property
    def age(self) -> int:
        """The number of its oldest sample; the first that came has the lowest."""


Bundle = TypeVar("Bundle", bound=Movable)


class Schedule(Generic[Bundle]):
    """The bundles that wait, and the rule above.

    Attributes:
        full: tokens from which a step is full.
        patience: seconds.
    """

    def __init__(self, depth: int, cost: LayerCost, patience: float | None = None) -> None:
        """
        Args:
            depth: L.
            cost: of a layer.
            patience: seconds; None: as long as a batch of twice the tokens of a full step takes for all layers.

        Raises:
            ValueError: negative patience.
        """
        self.full = cost.full
        self._depth, self._layer_seconds = depth, cost(2 * self.full)
        # Of several layers where they are short.
        self._step_seconds = max(self._layer_seconds, min(WHOLE_SECONDS, depth * self._layer_seconds))
        self.patience = depth * self._layer_seconds if patience is None else patience
        if not self.patience >= 0:
            raise ValueError(f"patience must be at least 0 seconds, got {patience}")
        self._groups: dict[tuple[int, Hashable], _Group[Bundle]] = {}

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, bundle: Bundle, now: float) -> None:
        """Let a bundle wait for its next step.

        Args:
            bundle: that nobody changes while it waits.
            now: the time.
        """
        key = bundle.layer, bundle.rule
        if key not in self._groups:
            self._groups[key] = _Group(bundle.layer)
        self._groups[key].add(bundle, now)

    def next(self, now: float) -> list[Bundle]:
        """Return the bundles of the next step, which no longer wait; none where none waits.

        Args:
            now: the time.
        """
        if not self._groups:
            return []
        overdue = [item for item in self._groups.items() if item[1].waiting_since + self.patience <= now]
        if overdue:
            key, group = min(overdue, key=lambda item: item[1].waiting_since)
            taken = group.take_oldest(self.full, now)
        else:
            key, group = self._choose(now)
            taken = group.take_due(self.full)
        if not group:
            del self._groups[key]
        return taken

    def _choose(self, now: float) -> tuple[tuple[int, Hashable], _Group[Bundle]]:
        groups = self._groups.items()
        pressed = [item for item in groups if self._latest_start(item[1]) <= now]
        if pressed:
            return min(pressed, key=lambda item: item[1].due)
        full = [item for item in groups if item[1].tokens >= self.full]
        return max(full or groups, key=lambda item: (item[1].layer, -item[1].age))

    def _latest_start(self, group: _Group[Bundle]) -> float:
        return group.due - (self._depth - group.layer) * self._layer_seconds - self._step_seconds


class _Group(Generic[Bundle]):
    """Bundles behind one layer and of one rule, in the orders in which they are due and came."""

    def __init__(self, layer: int) -> None:
        self.layer, self.tokens = layer, 0
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[Bundle, float]] = {}  # with the time at which each came here
        # Both also have the numbers of some who are gone, but never in front.
        self._by_due: list[tuple[float, int, int]] = []
        self._by_age: list[tuple[float, int, int]] = []
        self._last_for_age = -math.inf

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def due(self) -> float:
        return self._by_due[0][0]

    @property
    def age(self) -> float:
        return self._by_age[0][0]

    @property
    def waiting_since(self) -> float:
        """When the oldest came here, or when a step last went to this group for its oldest."""
        _, since = self._waiting[self._by_age[0][-1]]
        return max(since, self._last_for_age)

    def add(self, bundle: Bundle, now: float) -> None:
        number = next(self._numbers)
        self._waiting[number] = bundle, now
        heapq.heappush(self._by_due, (bundle.due, bundle.age, number))
        heapq.heappush(self._by_age, (bundle.age, 0, number))
        self.tokens += bundle.tokens

    def take_due(self, full: int) -> list[Bundle]:
        return self._take(self._by_due, full)

    def take_oldest(self, full: int, now: float) -> list[Bundle]:
        self._last_for_age = now
        return self._take(self._by_age, full)

    def _take(self, order: list[tuple[float, int, int]], full: int) -> list[Bundle]:
        """Take bundles until they have `full` tokens, past those that would make it more than twice as many."""
        taken: list[Bundle] = []
        passed, tokens = [], 0
        while order and tokens < full:
            item = heapq.heappop(order)
            if item[-1] not in self._waiting:
                continue
            bundle, _ = self._waiting[item[-1]]
            if taken and tokens + bundle.tokens > 2 * full:
                passed.append(item)
                continue
            del self._waiting[item[-1]]
            taken.append(bundle)
            tokens += bundle.tokens
        for item in passed:
            heapq.heappush(order, item)
        for heap in (self._by_due, self._by_age):
            while heap and heap[0][-1] not in self._waiting:
                heapq.heappop(heap)
        self.tokens -= tokens
        return taken

"""The servers on a virtual clock: what refilling a batch is worth for given arrivals, texts and costs of a layer.

The pool is simulated by its own rule (`fastbert_kernels.engine.schedule`). Its counterpart takes the texts that wait,
first come, first served, and runs the batch to the end in one call before it looks at the queue again; survivors move
together, so that the batch shrinks, and answers are out at its end, as servers that batch calls of a model do.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastbert_kernels.engine.layer_cost import STEP_SECONDS, LayerCost
from fastbert_kernels.engine.schedule import Schedule


@dataclass(frozen=True)
class Text:
    """A text, as a server sees it.

    Attributes:
        tokens: of it.
        exit_layer: behind which it leaves.
    """

    tokens: int
    exit_layer: int


@dataclass(frozen=True)
class Machine:
    """What things cost.

    Attributes:
        cost: seconds of a step through one layer, by tokens.
        stops: layers behind which texts may leave, ascending; the last one is the model's last.
        shell: seconds that the server around the model keeps the processors from a layer, for each text.
    """

    cost: LayerCost
    stops: tuple[int, ...]
    shell: float = 0.0

    @property
    def depth(self) -> int:
        return self.stops[-1]

    def seconds(self, layer: int, until: int, tokens: int) -> float:
        """Return the seconds of the layers behind `layer` up to `until`, without what a step takes beside them."""
        return (until - layer) * max(self.cost(tokens) - STEP_SECONDS, 0.0)

    def next_stop(self, layer: int, tokens: int) -> int:
        """Return the next layer that is worth a step of the pool and behind which texts may leave."""
        nearest = layer + self.cost.layers_of_a_step(tokens, self.depth - layer)
        return next((stop for stop in self.stops if stop >= nearest), self.depth)

    def run(self, layer: int, until: int, texts: Sequence[Text]) -> float:
        """Return the seconds of one call for texts that stand behind `layer`, who leave on its way to `until`."""
        seconds, stay = STEP_SECONDS, texts
        for stop in (stop for stop in self.stops if layer < stop <= until):
            if stay:
                seconds += self.seconds(layer, stop, sum(text.tokens for text in stay))
            layer, stay = stop, [text for text in stay if text.exit_layer > stop]
        return seconds


@dataclass(frozen=True)
class _Bundle:
    layer: int
    numbers: tuple[int, ...]
    tokens: int
    rule: str = ""
    due: float = math.inf

    @property
    def age(self) -> int:
        return min(self.numbers)


Simulation = Callable[[Sequence[float], Sequence[Text], Machine], list[float]]


def with_refill(times: Sequence[float], texts: Sequence[Text], machine: Machine) -> list[float]:
    """Return the latency of every text in a pool, in seconds.

    Args:
        times: at which they come, ascending.
        texts: of the same number.
        machine: that serves them.
    """
    schedule: Schedule[_Bundle] = Schedule(machine.depth, machine.cost)
    left, now, coming = [math.inf] * len(times), 0.0, 0
    while coming < len(times) or schedule:
        if not schedule:
            now = max(now, times[coming])
        while coming < len(times) and times[coming] <= now:
            schedule.add(_Bundle(0, (coming,), texts[coming].tokens), now)
            coming, now = coming + 1, now + machine.shell
        bundles = schedule.next(now)
        numbers = [number for bundle in bundles for number in bundle.numbers]
        layer = bundles[0].layer
        until = machine.next_stop(layer, sum(bundle.tokens for bundle in bundles))
        now += machine.run(layer, until, [texts[number] for number in numbers])
        stay = []
        for number in numbers:
            if texts[number].exit_layer <= until:
                left[number] = now
            else:
                stay.append(number)
        if stay:
            schedule.add(_Bundle(until, tuple(stay), sum(texts[number].tokens for number in stay)), now)
    return [end - begin for begin, end in zip(times, left, strict=True)]


def without_refill(
    times: Sequence[float], texts: Sequence[Text], machine: Machine, most_texts: int = 32
) -> list[float]:
    """Return the latency of every text where a batch runs to the end before the next one begins, in seconds.

    Args:
        times: at which they come, ascending.
        texts: of the same number.
        machine: that serves them.
        most_texts: of a batch.
    """
    latencies, now, coming = [math.inf] * len(times), 0.0, 0
    waiting: deque[int] = deque()
    while coming < len(times) or waiting:
        if not waiting:
            now = max(now, times[coming])
        while coming < len(times) and times[coming] <= now:
            waiting.append(coming)
            coming, now = coming + 1, now + machine.shell
        batch = [waiting.popleft() for _ in range(min(most_texts, len(waiting)))]
        now += machine.run(0, machine.depth, [texts[number] for number in batch])
        for number in batch:
            latencies[number] = now - times[number]
    return latencies


def flat(cost: LayerCost, tokens: int, texts: int) -> LayerCost:
    """Return the cost of a layer on a machine with room for more: up to so many texts of so many tokens take as long as
    one of them does here."""
    return LayerCost((tokens, texts * tokens), (cost(tokens), cost(tokens)))

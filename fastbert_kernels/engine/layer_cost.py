"""What a layer costs by the number of tokens in its batch, as a pool's schedule reckons with it."""

from __future__ import annotations

import bisect
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.rule import full_depth
from fastbert_kernels.engine.spans import Encoder

# A token of a full step costs at most this times what it costs at best.
NEAR_BEST = 1.05

# What a step takes beside its layer, about, next to threads that read and answer requests (seen on two cores of an AMD
# EPYC): states merged, answers given to futures, in Python that finds little of itself in the caches behind a layer.
STEP_SECONDS = 2e-3

# A step of a pool runs more than one layer before it would be shorter than this, so that STEP_SECONDS are little of it.
WORTHWHILE_SECONDS = 8 * STEP_SECONDS

# A step that is not full runs all layers that are left where those take no longer. Whoever comes meanwhile waits for so
# long at most, and would seldom catch up: a few texts in steps through thin layers spend more on the ends of steps than
# company saves, on a virtual clock too (`benchmarks/serve.py --simulate`).
WHOLE_SECONDS = 0.04

_SMALLEST, _LARGEST = 32, 8192  # tokens of the batches that are measured
_BUDGET_SECONDS = 0.3


@dataclass(frozen=True)
class LayerCost:
    """Seconds of a layer by the tokens of its batch: known at some numbers, linear between and beyond them.

    Attributes:
        tokens: ascending, at least one.
        seconds: of a layer at each of them, positive.

    Raises:
        ValueError: none, not ascending, of different numbers, or seconds that are not positive.
    """

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.tokens or len(self.tokens) != len(self.seconds):
            raise ValueError(f"{len(self.tokens)} numbers of tokens and {len(self.seconds)} times make no cost")
        if list(self.tokens) != sorted({*self.tokens}) or self.tokens[0] < 1:
            raise ValueError(f"numbers of tokens must ascend from at least 1, not {self.tokens}")
        if not all(0 < seconds < math.inf for seconds in self.seconds):
            raise ValueError(f"a layer takes a positive number of seconds, not {self.seconds}")

    def __call__(self, tokens: int) -> float:
        """Return the seconds of a layer for a batch of `tokens`; below what is known, those of the smallest batch."""
        place = bisect.bisect_left(self.tokens, tokens)
        if place == 0:
            return self.seconds[0]
        if place == len(self.tokens):
            return self.seconds[-1] * tokens / self.tokens[-1]
        (low, high), (before, after) = self.tokens[place - 1 : place + 1], self.seconds[place - 1 : place + 1]
        return before + (after - before) * (tokens - low) / (high - low)

    def layers_of_a_step(self, tokens: int, remaining: int) -> int:
        """Return the fewest layers that are worth a step of `tokens` which has `remaining` before it, at least 1."""
        alone = self(tokens) - STEP_SECONDS
        if tokens < self.full and remaining * alone <= WHOLE_SECONDS:
            return remaining
        return 1 if alone >= WORTHWHILE_SECONDS else math.ceil(WORTHWHILE_SECONDS / max(alone, 1e-6))

    @property
    def full(self) -> int:
        """The smallest known number of tokens from which a larger batch makes no token much cheaper."""
        each = [seconds / tokens for tokens, seconds in zip(self.tokens, self.seconds, strict=True)]
        return next(tokens for tokens, one in zip(self.tokens, each, strict=True) if one <= NEAR_BEST * min(each))


@torch.no_grad()
def measure_layer_cost(
    encoder: Encoder, batch_of: Callable[[int], PackedBatch], clock: Callable[[], float] = time.perf_counter
) -> LayerCost:
    """Measure a step through the first layer on this machine.

    Batches double until two in a row make no token cheaper. It takes some tenths of a second: no batch is begun after
    the first 0.3 s.

    Args:
        encoder: whose layers are alike.
        batch_of: tokens wanted -> a batch of about so many.
        clock: returns seconds.
    """
    begin, wanted = clock(), _SMALLEST
    known: dict[int, float] = {}  # tokens -> seconds
    while wanted <= _LARGEST:
        batch = batch_of(wanted)
        tokens, times = batch.hidden.shape[0], []
        for _ in range(3 if not known else 2):  # the first of all calls finds nothing in the cache
            state = encoder.start(copy.copy(batch), full_depth(encoder.num_labels))
            start = clock()
            encoder.advance(state, 1)
            if batch.hidden.is_cuda:
                torch.cuda.synchronize(batch.hidden.device)
            times.append(clock() - start)
        if tokens in known:  # as many as there can be
            break
        known[tokens] = min(times) + STEP_SECONDS
        each = [seconds / number for number, seconds in known.items()]
        if len(each) > 2 and min(each[-2:]) > 0.95 * min(each[:-2]):
            break
        if clock() - begin > _BUDGET_SECONDS:
            break
        wanted *= 2
    return LayerCost(tuple(known), tuple(known.values()))

"""The capacities that recorded graphs have: which one holds a batch, and when a smaller one is worth the move."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import torch
from torch import Tensor

# Every step is recorded by itself, so few of them: at most half of the rows, and 511, are computed for nobody, by count
# 12 us of products a layer. Fewer rows than one tile of a matrix product save nothing. At 2048 tokens (49 us a layer)
# the launches of the plain loop begin to disappear behind the work; beyond, a graph has less and less to give.
TOKENS = (64, 128, 256, 512, 768, 1024, 1536, 2048)
# An empty sample is a block that finds nothing to do, so coarse steps; but all blocks of a head should run at once, and
# a GPU has room for about a hundred.
SAMPLES = (8, 32, 128)
MAX_SAMPLES = SAMPLES[-1]
# Of the longest sample. A tile of the attention has 64 or 128 queries, and one behind the end of its sample finds
# nothing to do either.
LENGTHS = (128, 512, 2048)
# Batches for which the device itself decides whether the next layer runs. They stay in one bucket to the end, so the
# work of a layer should be no more than its launches: at 512 tokens it is 12 us of products, and a layer has about 12
# kernels of 1 us and more each. By count, not measured.
WHOLE_DEPTH_SAMPLES = 8
WHOLE_DEPTH_TOKENS = 512


@dataclass(frozen=True)
class Bucket:
    """Capacity of a batch: rows, real samples, and an upper bound of the lengths of all samples, dummies included."""

    tokens: int
    samples: int
    max_seqlen: int

    @classmethod
    def smallest(cls, tokens: int, samples: int, max_seqlen: int) -> Bucket | None:
        """Return the one for such a batch, None where it is too large for a graph to help."""
        if tokens > TOKENS[-1] or samples > SAMPLES[-1]:
            return None
        rows = TOKENS[bisect.bisect_left(TOKENS, tokens)]
        longest = LENGTHS[bisect.bisect_left(LENGTHS, min(max_seqlen, rows))]
        return cls(rows, SAMPLES[bisect.bisect_left(SAMPLES, samples)], min(longest, rows))

    def holds(self, other: Bucket) -> bool:
        """Return whether whatever fits `other` fits here."""
        return self.tokens >= other.tokens and self.samples >= other.samples and self.max_seqlen >= other.max_seqlen

    @property
    def slots(self) -> int:
        """Samples with the dummies that it takes to own all rows."""
        return self.samples + -(-self.tokens // self.max_seqlen)

    def limits(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds [slots + 1] int32 that make cu_seqlens end with `tokens`, no dummy too long.

        The last dummies begin `max_seqlen` rows apart, counted from the end, or where the samples before them end. The
        difference of two maxima is at most the larger difference, so none gets longer than that, at any stage.
        """
        dummies = self.slots - self.samples
        last = [max(0, self.tokens - self.max_seqlen * i) for i in range(dummies, -1, -1)]
        lower = torch.tensor([0] * self.samples + last, dtype=torch.int32, device=device)
        return lower, torch.full_like(lower, self.tokens)


@dataclass(frozen=True)
class MoveCost:
    """When it pays to go on in a smaller bucket instead of masking those who left in the one at hand.

    Attributes:
        flops_per_second: of a layer's products; by count, not measured.
        seconds: of the move, about seven small launches; by count, too.
    """

    flops_per_second: float = 600e12
    seconds: float = 20e-6

    def pays(self, tokens: int, layers: int, hidden_size: int) -> bool:
        """Return whether `layers` layers to come with `tokens` rows less save more; BERT layers, whose I is 4 H."""
        return tokens * layers * 24 * hidden_size**2 > self.seconds * self.flops_per_second


COUNTED = MoveCost()

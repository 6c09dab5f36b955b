"""How many times as fast one contestant is as another one: by the round, since only neighbouring calls compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastbert_hf.timing import Seconds


@dataclass(frozen=True)
class Ratio:
    """The ratios of two contestants' seconds, each within a round: p20, the median and p80."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, slow: dict[str, Any], fast: dict[str, Any]) -> Ratio:
        """Return how many times as fast `fast` is as `slow`: rows of one configuration, with their `seconds`."""
        pairs = zip(slow["seconds"], fast["seconds"], strict=True)
        return cls(*Seconds([one / other for one, other in pairs]).quantiles)

    def __str__(self) -> str:
        return f"{self.p50:.2f}x ({self.p20:.2f} to {self.p80:.2f})"

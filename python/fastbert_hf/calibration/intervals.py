"""Confidence intervals of what was measured on n samples."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special


def share_interval(count: int, samples: int, confidence: float) -> tuple[float, float]:
    """Return the exact two-sided interval of Clopper and Pearson (1934) for a share, seen in `count` of `samples`."""
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(special.betaincinv(count, samples - count + 1, tail))
    high = 1.0 if count == samples else float(special.betaincinv(count + 1, samples - count, 1 - tail))
    return low, high


def ratio_interval(numerators: npt.ArrayLike, denominators: npt.ArrayLike, confidence: float) -> tuple[float, float]:
    """Return an approximate two-sided interval for a ratio of means, as a FLOPs speed-up is one (delta method).

    Args:
        numerators: one per sample, [n], n >= 2.
        denominators: one per sample, [n], above 0.
        confidence: in (0, 1).
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    ratio = above.mean() / below.mean()
    error = math.sqrt(float(np.square(above - ratio * below).sum()) / (len(below) * (len(below) - 1))) / below.mean()
    width = float(special.ndtri(0.5 + confidence / 2)) * error
    return float(ratio - width), float(ratio + width)

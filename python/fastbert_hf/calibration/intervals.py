"""Confidence intervals of what was measured on n samples."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import optimize, special


def check_confidence(confidence: float) -> None:
    """Raise `ValueError` for what cannot be the confidence of an interval or of a promise."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence:g}")


def share_interval(count: int, samples: int, confidence: float) -> tuple[float, float]:
    """Return the exact two-sided interval of Clopper and Pearson (1934) for a share, seen in `count` of `samples`."""
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(special.betaincinv(count, samples - count + 1, tail))
    high = 1.0 if count == samples else float(special.betaincinv(count + 1, samples - count, 1 - tail))
    return low, high


def share_over_time(count: int, samples: int, confidence: float) -> tuple[float, float]:
    """Return an interval for a share, seen in `count` of `samples` so far, that holds at all times at once.

    With s = `count` of n = `samples`, it is {m : E(m) < 1 / (1 - confidence)} for

        E(m) = B(s + 1/2, n - s + 1/2) / B(1/2, 1/2) / (m^s (1 - m)^(n - s)),

    the likelihood of the samples mixed over the shares by Beta(1/2, 1/2), over that of the share m. As n grows, E of
    the true share is a martingale that begins at 1, so that it ever reaches 1 / (1 - confidence) with probability at
    most 1 - confidence (Ville): one may look after every sample and stop when one likes (Robbins 1970, "Statistical
    methods related to the law of the iterated logarithm", Annals of Mathematical Statistics 41; the beta-binomial
    mixture of Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence
    sequences", arXiv 1810.08240).

    Args:
        count: samples that have the property.
        samples: independent ones, 0 or more.
        confidence: in (0, 1).
    """
    return _lowest_share(count, samples, confidence), 1 - _lowest_share(samples - count, samples, confidence)


def _lowest_share(count: int, samples: int, confidence: float) -> float:
    if count == 0:
        return 0.0
    others = samples - count
    mixed = special.betaln(count + 0.5, others + 0.5) - special.betaln(0.5, 0.5)

    def excess(share: float) -> float:
        """Return log E less log 1 / (1 - confidence): falls up to count / samples, where it is below 0."""
        return float(mixed - special.xlogy(count, share) - special.xlog1py(others, -share) + math.log1p(-confidence))

    return float(optimize.brentq(excess, 1e-300, count / samples, xtol=1e-15, rtol=1e-12))


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

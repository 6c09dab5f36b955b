"""Intervals of shares and ratios, at one time and at all times, against definitions and draws with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fastbert_hf.calibration.intervals import ratio_interval, share_interval, share_over_time

RUNS = 500


@pytest.mark.parametrize(("count", "samples"), [(0, 9), (9, 9), (3, 50), (499, 500)])
def test_share_interval_is_clopper_pearson(count, samples) -> None:
    expected = stats.binomtest(count, samples).proportion_ci(0.9, method="exact")
    assert share_interval(count, samples, 0.9) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_ratio_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(RUNS):
        above = generator.integers(10, 60, 200).astype(float)
        below = above * generator.choice([0.2, 0.5, 1.0], 200)
        low, high = ratio_interval(above, below, 0.9)
        covered += low < 3 / 1.7 < high
    assert stats.binom.ppf(0.001, RUNS, 0.88) <= covered <= stats.binom.ppf(0.999, RUNS, 0.92)


def test_share_over_time_is_where_the_mixture_is_below_its_bound() -> None:
    for count, samples, confidence in ((0, 40, 0.95), (3, 40, 0.95), (40, 40, 0.9), (1, 1, 0.5), (700, 5_000, 0.99)):
        low, high = share_over_time(count, samples, confidence)
        assert 0 <= low <= count / samples <= high <= 1
        for share in {low, high} - {0.0, 1.0}:
            known = stats.binom.logpmf(count, samples, share)
            mixed = stats.betabinom.logpmf(count, samples, 0.5, 0.5)
            assert mixed - known == pytest.approx(-math.log(1 - confidence), abs=1e-6)
    assert share_over_time(0, 0, 0.95) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.004, 0.05, 0.5])
def test_share_over_time_holds_at_all_times_at_once(share) -> None:
    """What is looked at after every sample misses the truth once in ten runs at most; Clopper-Pearson does not."""
    level, samples = 0.1, 2_000
    seen = np.random.default_rng(5).random((RUNS, samples)) < share
    counts, sizes = seen.cumsum(axis=1), np.arange(1, samples + 1)
    # The truth is inside where the mixture is below its bound.
    missed = stats.betabinom.logpmf(counts, sizes, 0.5, 0.5) - stats.binom.logpmf(counts, sizes, share)
    ever = (missed >= -math.log(level)).any(axis=1).sum()
    tails = stats.binom.cdf(counts, sizes, share), stats.binom.sf(counts - 1, sizes, share)
    ever_at_one_time = (np.minimum(*tails) < level / 2).any(axis=1).sum()
    print(f"share {share}: {ever} of {RUNS} runs ever miss it, {ever_at_one_time} by Clopper-Pearson")
    assert ever <= stats.binom.ppf(0.999, RUNS, level) < ever_at_one_time
    last = [share_over_time(int(count), samples, 1 - level) for count in counts[:40, -1]]
    inside = [low <= share <= high for low, high in last]
    assert inside == (missed[:40, -1] < -math.log(level)).tolist()

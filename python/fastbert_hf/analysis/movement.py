"""How the uncertainty of a sample moves from one exit head to the next."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fastbert_hf.analysis.uncertainty import INTERVALS, interval_places
from fastbert_hf.calibration import ExitRecords
from fastbert_hf.calibration.simulation import uncertainties


@dataclass(frozen=True)
class UncertaintyStep:
    """From one exit head to the next, for all samples, whoever would have left before.

    Attributes:
        from_layer: of the first head.
        to_layer: of the second head.
        falls: share of the samples whose uncertainty is lower at the second; `None` without samples.
        rank_correlation: Spearman's, of the two uncertainties: 1 where the order of the samples stays; `None` where
            a head is as unsure of every sample.
        counts: samples by the tenth of [0, 1] that their uncertainty is in, at the first head (rows) and at the second.
        unknown: samples without a finite uncertainty at one of the two, which nothing above counts.
    """

    from_layer: int
    to_layer: int
    falls: float | None
    rank_correlation: float | None
    counts: tuple[tuple[int, ...], ...]
    unknown: int


def uncertainty_steps(records: ExitRecords) -> tuple[UncertaintyStep, ...]:
    """Return a step for every two neighbouring exit heads."""
    layers, uncertainty = records.exit_layers, uncertainties(records, "entropy")
    steps = []
    for head, (first, second) in enumerate(itertools.pairwise(layers)):
        pair = uncertainty[:, head : head + 2]
        before, after = pair[np.isfinite(pair).all(axis=1)].T
        places = interval_places(before, INTERVALS) * INTERVALS + interval_places(after, INTERVALS)
        counts = np.bincount(places, minlength=INTERVALS**2).reshape(INTERVALS, INTERVALS)
        varies = len(before) > 1 and np.ptp(before) > 0 and np.ptp(after) > 0
        steps.append(
            UncertaintyStep(
                first,
                second,
                falls=float((after < before).mean()) if len(before) else None,
                rank_correlation=float(stats.spearmanr(before, after).statistic) if varies else None,
                counts=tuple(map(tuple, counts.tolist())),
                unknown=len(pair) - len(before),
            )
        )
    return tuple(steps)

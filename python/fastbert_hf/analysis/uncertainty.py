"""Uncertainty of the exit heads: what it says about accuracy, and how it is distributed over the layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastbert_hf.calibration import ExitRecords, ExitRule
from fastbert_hf.calibration.intervals import share_interval
from fastbert_hf.calibration.simulation import exit_heads, uncertainties

INTERVALS = 10
BINS = 20
# With fewer, the accuracy in an interval is known to 30 points at best.
ENOUGH_TEXTS = 10


@dataclass(frozen=True)
class UncertaintyInterval:
    """The samples of one head whose uncertainty lies in [low, high), in the last interval [low, high].

    Attributes:
        low: lower bound of the uncertainty.
        high: upper bound of the uncertainty.
        samples: how many there are.
        right: of them, those predicted right.
        accuracy: `right` over `samples`; `None` without samples.
        band: interval of Clopper and Pearson for the accuracy; `None` without samples.
    """

    low: float
    high: float
    samples: int
    right: int
    accuracy: float | None
    band: tuple[float, float] | None


@dataclass(frozen=True)
class HeadAccuracy:
    """Accuracy of one exit head, which all samples reach, in every interval of its uncertainty.

    Attributes:
        layer: 1..L.
        teacher: whether it is the teacher classifier.
        intervals: ascending.
        unknown: samples without a finite uncertainty, which no interval has.
    """

    layer: int
    teacher: bool
    intervals: tuple[UncertaintyInterval, ...]
    unknown: int

    def with_at_least(self, samples: int) -> list[UncertaintyInterval]:
        """The intervals that have so many samples."""
        return [interval for interval in self.intervals if interval.samples >= samples]


@dataclass(frozen=True)
class LayerUncertainty:
    """Uncertainty of one exit head, over the samples that reach its layer.

    Attributes:
        layer: 1..L.
        arriving: samples that reach the layer.
        counts: of them, how many lie in each of `BINS` equal intervals of [0, 1].
        quartiles: first quartile, median and third quartile; `None` when no sample with a known uncertainty arrives.
        unknown: arriving samples without a finite uncertainty.
    """

    layer: int
    arriving: int
    counts: tuple[int, ...]
    quartiles: tuple[float, float, float] | None
    unknown: int


@dataclass(frozen=True)
class UncertaintyAtSpeed:
    """The distribution of uncertainty in every layer that has an exit head, at one Speed."""

    speed: float
    layers: tuple[LayerUncertainty, ...]


def accuracy_by_uncertainty(records: ExitRecords, confidence: float) -> tuple[HeadAccuracy, ...]:
    """The hypothesis "lower uncertainty, higher accuracy" (LUHA; Liu et al. 2020, section 3.3 and figure 3).

    All samples run through all layers.

    Args:
        records: the samples.
        confidence: of the bands, in (0, 1).

    Returns:
        The first student classifier, a middle one and the teacher classifier; fewer where the model has fewer heads.
    """
    last = len(records.exit_layers) - 1
    uncertainty = uncertainties(records, "entropy")
    return tuple(
        _head_accuracy(records, head, uncertainty[:, head], confidence) for head in sorted({0, last // 2, last})
    )


def uncertainty_at_speed(records: ExitRecords, speed: float) -> UncertaintyAtSpeed:
    """Uncertainty per layer of the samples that are still there (Liu et al. 2020, figure 4).

    Args:
        records: the samples.
        speed: one for all layers, in [0, 1]; at 0 nobody leaves early.
    """
    exits = exit_heads(records, ExitRule.one_speed(records.student_layers, speed))
    uncertainty = uncertainties(records, "entropy")
    return UncertaintyAtSpeed(
        speed,
        tuple(
            _layer_uncertainty(layer, uncertainty[exits >= head, head])
            for head, layer in enumerate(records.exit_layers)
        ),
    )


def _head_accuracy(
    records: ExitRecords, head: int, uncertainty: npt.NDArray[np.float32], confidence: float
) -> HeadAccuracy:
    known = np.isfinite(uncertainty)
    place = interval_places(uncertainty[known], INTERVALS)
    samples = np.bincount(place, minlength=INTERVALS).tolist()
    right = np.bincount(place[records.right[known, head]], minlength=INTERVALS).tolist()
    return HeadAccuracy(
        layer=records.exit_layers[head],
        teacher=head == len(records.exit_layers) - 1,
        intervals=tuple(
            UncertaintyInterval(
                low=number / INTERVALS,
                high=(number + 1) / INTERVALS,
                samples=samples[number],
                right=right[number],
                accuracy=right[number] / samples[number] if samples[number] else None,
                band=share_interval(right[number], samples[number], confidence) if samples[number] else None,
            )
            for number in range(INTERVALS)
        ),
        unknown=int((~known).sum()),
    )


def _layer_uncertainty(layer: int, uncertainty: npt.NDArray[np.float32]) -> LayerUncertainty:
    known = uncertainty[np.isfinite(uncertainty)]
    first, median, third = np.quantile(known, (0.25, 0.5, 0.75)).tolist() if len(known) else (0, 0, 0)
    return LayerUncertainty(
        layer=layer,
        arriving=len(uncertainty),
        counts=tuple(np.bincount(interval_places(known, BINS), minlength=BINS).tolist()),
        quartiles=(first, median, third) if len(known) else None,
        unknown=len(uncertainty) - len(known),
    )


def interval_places(uncertainty: npt.NDArray[np.float32], number: int) -> npt.NDArray[np.int64]:
    """Return which of `number` equal intervals of [0, 1] each value lies in, of the same shape; 1 lies in the last."""
    bounds = (np.arange(1, number) / number).astype(np.float32)
    return np.searchsorted(bounds, uncertainty, side="right").astype(np.int64)

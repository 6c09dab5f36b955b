"""One Speed for all layers: what every Speed does, all at once, and the Speed that gives a wanted speed-up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastbert_hf.calibration.records import ExitRecords
from fastbert_hf.calibration.simulation import indices_of, uncertainties
from fastbert_hf.exits.calibrated_setting import SpeedCurve
from fastbert_hf.exits.criteria import CRITERIA, default_criterion
from fastbert_hf.flops import full_depth_flops, leaving_flops

Doubles = npt.NDArray[np.float64]

# Speeds of a stored curve: enough that neighbours differ by less than the noise of some thousand samples.
STORED_SPEEDS = 256


def speed_curve(
    records: ExitRecords,
    layers: Sequence[int] | None = None,
    criterion: str | None = None,
    parameter: int = 0,
    limit: int = STORED_SPEEDS,
) -> SpeedCurve:
    """Return the curve over all Speeds that differ on `records`, or about `limit` of them, evenly over the samples.

    Args:
        records: the samples.
        layers: where a student classifier is asked; `None` for all of them.
        criterion: one that compares with Speed; `None`: that by which a Speed alone decides.
        parameter: the number that belongs to it.
        limit: Speeds of the curve, at least 2.
    """
    layers = records.student_layers if layers is None else tuple(layers)
    asked = indices_of(records, layers)
    criterion = default_criterion(records.problem_type) if criterion is None else criterion
    uncertainty = uncertainties(records, criterion, parameter, layers)[:, :-1]
    speeds = candidate_speeds(running_minimum(uncertainty), limit, CRITERIA[criterion].largest_speed)
    right, flops = sweep(uncertainty, speeds, [records.right[:, [*asked, -1]], exit_flops(records, asked)])
    full = float(full_depth_flops(records.shape, records.lengths.numpy()).sum())
    return SpeedCurve(
        speeds=tuple(speeds.tolist()),
        accuracy=tuple((right / len(records)).tolist()),
        flops_speedup=tuple((full / flops).tolist()),
    )


def candidate_speeds(uncertainty: npt.NDArray[np.float32], limit: int, largest: float = 1.0) -> Doubles:
    """Return Speeds that tell all values of `uncertainty` apart: 0, and the middle of each two neighbours up to the
    largest Speed.

    The middle is furthest from both, so that another precision changes few exits. Every Speed is a float32.

    Args:
        uncertainty: of any shape; NaN and infinities are left out.
        limit: when there are more Speeds, this many evenly spaced ones among them, the first and the last included.
        largest: of the criterion; infinity where there is none, for which twice the largest value stands.

    Returns:
        float64 [K], ascending.
    """
    finite = uncertainty[np.isfinite(uncertainty)]
    if math.isinf(largest):
        largest = 2 * max(float(finite.max(initial=0)), float(np.finfo(np.float32).tiny))
    values = np.unique(np.append(finite, np.float32(largest)).astype(np.float32))
    below, above = values[:-1].astype(np.float64), values[1:].astype(np.float64)
    middle = ((below + above) / 2).astype(np.float32)
    middle = np.where(middle > values[:-1], middle, values[1:])  # neighbouring floats have no middle
    speeds = np.unique(np.append(np.float32(0), middle)).astype(np.float64)
    if len(speeds) > limit:
        speeds = speeds[np.unique(np.linspace(0, len(speeds) - 1, limit).round().astype(np.int64))]
    return speeds


def running_minimum(uncertainty: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the lowest uncertainty up to each head, [n, heads]: with one Speed above it, a sample has left by then."""
    return np.minimum.accumulate(np.where(np.isnan(uncertainty), np.inf, uncertainty), axis=1).astype(np.float32)


def exit_flops(records: ExitRecords, asked: list[int]) -> Doubles:
    """Return the FLOPs of samples that leave at each of the heads `asked` and at the teacher, [n, len(asked) + 1]."""
    shape = records.shape.asking(records.exit_layers[head] for head in asked)
    return leaving_flops(shape, records.lengths.numpy()).T.astype(np.float64)


def sweep(
    uncertainty: npt.NDArray[np.float32], speeds: Doubles, amounts: Sequence[npt.NDArray[np.generic]]
) -> list[Doubles]:
    """Return sums over the samples of what each has at its exit, for every Speed, without a loop over the Speeds.

    A sample leaves at head j for the Speeds above the lowest uncertainty up to j and not above that up to j - 1: one
    interval of the ascending Speeds, at whose ends its amount is added and taken away again.

    Args:
        uncertainty: [n, heads] of the heads that are asked, without the teacher classifier.
        speeds: [K], ascending, each a float32.
        amounts: arrays [n, heads + 1], for leaving at each head and at the teacher classifier.

    Returns:
        For every array its sums [K].
    """
    begins = np.searchsorted(speeds.astype(np.float32), running_minimum(uncertainty), side="right")
    ends = np.concatenate([np.full((len(begins), 1), len(speeds)), begins], axis=1)
    begins = np.concatenate([begins, np.zeros((len(begins), 1), dtype=begins.dtype)], axis=1)
    totals = []
    for amount in amounts:
        weights = amount.astype(np.float64).ravel()
        size = len(speeds) + 1
        change = np.bincount(begins.ravel(), weights, size) - np.bincount(ends.ravel(), weights, size)
        totals.append(change.cumsum()[:-1])
    return totals

"""Rules of two Speeds, one for layer 0 and one for all layers behind it, on recorded samples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastbert_hf import ExitRule
from fastbert_hf.calibration import ExitRecords
from fastbert_hf.calibration.curve import candidate_speeds, exit_flops, running_minimum
from fastbert_hf.calibration.simulation import uncertainties
from fastbert_hf.flops import full_depth_flops

ZERO_SPEEDS, SPEEDS = 24, 48  # that are tried


@dataclass(frozen=True)
class Family:
    """What R rules do to n samples.

    Attributes:
        rules: R.
        right: bool [n, R], whether the answer is.
        flops: float32 [n, R].
        full: float64 [n], FLOPs at full depth.
    """

    rules: list[ExitRule]
    right: npt.NDArray[np.bool_]
    flops: npt.NDArray[np.float32]
    full: npt.NDArray[np.float64]

    @classmethod
    def of(cls, records: ExitRecords, *, zero: bool) -> Family:
        """Return the rules of one Speed behind the layers, with each Speed of layer 0 or without asking it.

        Args:
            records: of a model with exit zero.
            zero: whether some of the rules ask it; those that do not are there in any case.
        """
        uncertainty = uncertainties(records, "entropy")
        behind = [head for head, layer in enumerate(records.student_layers) if layer > 0]
        lowest = running_minimum(uncertainty[:, behind])
        speeds = [float(speed) for speed in candidate_speeds(lowest, SPEEDS)]
        firsts = [0.0, *candidate_speeds(uncertainty[:, 0], ZERO_SPEEDS)[1:].tolist()] if zero else [0.0]
        rules, exits, flops = [], [], []
        costs = {asked: _costs(records, behind, *asked) for asked in itertools.product((False, True), repeat=2)}
        for first in firsts:
            at_zero = uncertainty[:, 0] < np.float32(first)
            for speed in speeds:
                place = 1 + (lowest >= np.float32(speed)).sum(axis=1)  # heads before the first below Speed
                exits.append(np.where(at_zero, 0, place))
                flops.append(costs[first > 0, speed > 0][np.arange(len(records)), exits[-1]].astype(np.float32))
                zeros = ((0,), (first,)) if first > 0 else ((), ())
                layers = tuple(records.student_layers[head] for head in behind) if speed > 0 else ()
                rules.append(ExitRule((*zeros[0], *layers), (*zeros[1], *(speed,) * len(layers))))
        right = records.right[np.arange(len(records))[:, None], np.stack(exits, axis=1)]
        full = full_depth_flops(records.shape, records.lengths.numpy()).astype(np.float64)
        return cls(rules, right, np.stack(flops, axis=1), full)


def _costs(records: ExitRecords, behind: list[int], asks_zero: bool, asks_behind: bool) -> npt.NDArray[np.float64]:
    """Return the FLOPs of leaving at each head, [n, E], 0 at those that are not asked."""
    asked = [0] * asks_zero + behind * asks_behind
    costs = np.zeros((len(records), len(records.exit_layers)))
    costs[:, [*asked, -1]] = exit_flops(records, asked)
    return costs


def best_rule(family: Family, speedup: float, rows: npt.NDArray[np.int64] | None = None) -> ExitRule | None:
    """Return the most accurate rule that has a FLOPs speed-up on `rows`, by default all; None where none has."""
    place = _best(family, speedup, slice(None) if rows is None else rows)
    return None if place is None else family.rules[place]


def splits(
    families: Mapping[str, Family], speedups: Sequence[float], number: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Return for each speed-up what each family's best rule does on the half that did not choose it, on average.

    Args:
        families: by name, of the same samples.
        speedups: in FLOPs.
        number: of random splits.
        seed: of the splits.

    Returns:
        For each speed-up a dict with it, and by name accuracy and FLOPs speed-up; None for a family that does not reach
        it in every split.
    """
    draw = np.random.default_rng(seed)
    size = len(next(iter(families.values())).full)
    orders = [draw.permutation(size) for _ in range(number)]
    points = []
    for speedup in speedups:
        point: dict[str, Any] = {"speedup": speedup}
        for name, family in families.items():
            found = []
            for order in orders:
                chooses, measures = order[: size // 2], order[size // 2 :]
                place = _best(family, speedup, chooses)
                if place is None:
                    break
                flops = float(family.flops[measures, place].sum(dtype=np.float64))
                found.append((float(family.right[measures, place].mean()), float(family.full[measures].sum()) / flops))
            means = np.mean(found, axis=0).tolist() if len(found) == number else None
            point[name] = None if means is None else {"accuracy": means[0], "flops_speedup": means[1]}
        points.append(point)
    return points


def _best(family: Family, speedup: float, rows: Any) -> int | None:
    flops = family.flops[rows].sum(axis=0, dtype=np.float64)
    reached = family.full[rows].sum() / flops >= speedup
    if not reached.any():
        return None
    accuracy = np.where(reached, family.right[rows].mean(axis=0), -1.0)
    best = np.flatnonzero(accuracy == accuracy.max())
    return int(best[flops[best].argmin()])

"""Figures of trained models from their recorded exits: what every Speed does, and variants at equal FLOPs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from criteria.figures import Contender, Curve, differences, differences_at
from fastbert_hf.calibration import ExitRecords, ExitRule, simulate
from fastbert_hf.calibration.simulation import measure, uncertainties
from fastbert_hf.flops import Convention, flops_speedup
from run_folders import VARIANTS, RunName
from trained.steps import RECORDS

SPEEDS = (0.1, 0.3, 0.5, 0.8)  # of the tables
CURVE_SPEEDS = tuple(number / 50 for number in range(51))  # those of the tables and of the paper's among them
STATIC_LAYERS = (6, 2)  # of models without adaptation, where they are fewer than all
EQUAL_FLOPS = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_FIRST_COMPARED, _COMPARED = 1.5, 26  # of the mean: from this speed-up to two thirds of the number of layers


def scores(records: ExitRecords) -> dict[str, Any]:
    """Return, of the test set, the accuracy of every layer's head, and what each Speed gives.

    `curve` has columns over `CURVE_SPEEDS`, `static` the first layers with their head alone; FLOPs of both are in the
    paper's convention.
    """
    found = [_at(records, speed) for speed in CURVE_SPEEDS]
    curve = {name: [at[name] for at in found] for name in ("speed", "accuracy", "mean_exit_layer")}
    return {
        "layer_accuracy": records.right.mean(axis=0).tolist(),
        "layer_uncertainty": uncertainties(records, "entropy").astype("float64").mean(axis=0).tolist(),
        "full_depth": _at(records, None),
        "speeds": [_at(records, speed) for speed in SPEEDS],
        "curve": curve | {"flops_speedup": [at["flops_speedup"]["paper"] for at in found]},
        "static": [_static(records, layers) for layers in STATIC_LAYERS if layers in records.student_layers],
    }


def _at(records: ExitRecords, speed: float | None) -> dict[str, Any]:
    rule = ExitRule(()) if speed is None else ExitRule.one_speed(records.student_layers, speed)
    found = simulate(records, rule)
    conventions: tuple[Convention, ...] = ("paper", "attention")
    flops = {
        convention: flops_speedup(records.shape, found.exit_layers, records.lengths.numpy(), convention)
        for convention in conventions
    }
    return {
        "speed": speed,
        "accuracy": found.accuracy,
        "mean_exit_layer": found.mean_exit_layer,
        "flops_speedup": None if speed is None else flops,
    }


def _static(records: ExitRecords, layers: int) -> dict[str, Any]:
    everybody = np.full(len(records), records.exit_layers.index(layers))
    found = measure(records, (layers,), everybody)
    return {"layers": layers, "accuracy": found.accuracy, "flops_speedup": found.flops_speedup}


def compared(records: Mapping[str, ExitRecords]) -> list[dict[str, Any]]:
    """Return, for every two variants of one task, backbone and seed, how far the first is ahead of the second at equal
    FLOPs, on the same test texts.

    Args:
        records: by variant, in the order in which the first of two is told from the second.

    Returns:
        `variant`, `baseline`, `texts`, `at` and `mean`. `at` has an entry for each of `EQUAL_FLOPS` that both reach:
        `value`, the accuracy of the first, `difference`, less that of the second, and its `interval` (95 %, bootstrap
        over the texts); `mean` has these of the mean over the speed-ups `from` ... `to`. Nothing of two that do not
        both reach `from`.

    Raises:
        ValueError: the records are of other texts.
    """
    found = []
    for (name, one), (baseline, other) in itertools.combinations(records.items(), 2):
        if one.texts != other.texts or len(one) != len(other):
            raise ValueError(f"the exits of {name} and {baseline} were recorded on other texts; record them again")
        pair = {name: one, baseline: other}
        reach = min(curve.fastest for curve in _curves(pair, np.array([_FIRST_COMPARED])).values())
        if reach < _FIRST_COMPARED:
            continue
        last = min(reach, one.shape.num_layers * 2 / 3)
        reached = [speedup for speedup in EQUAL_FLOPS if speedup <= reach]
        mean = differences(_curves(pair, np.linspace(_FIRST_COMPARED, last, _COMPARED)), baseline)[name]
        at = differences_at(_curves(pair, np.array(reached)), baseline)[name]
        found.append(
            {
                "variant": name,
                "baseline": baseline,
                "texts": len(one),
                "mean": {"from": _FIRST_COMPARED, "to": last, **mean},
                "at": [{"flops_speedup": speedup, **here} for speedup, here in zip(reached, at, strict=True)],
            }
        )
    return found


def _curves(records: Mapping[str, ExitRecords], speedups: npt.NDArray[np.float64]) -> dict[str, Curve]:
    return {name: Curve(one, Contender("entropy"), speedups) for name, one in records.items()}


def compared_in(folder: Path, task: str, backbone: str, seed: int) -> list[dict[str, Any]]:
    """Return `compared` of the variants of one task, backbone and seed whose exits a run folder has."""
    paths = {variant: folder / str(RunName(task, backbone, variant, seed)) / RECORDS for variant in VARIANTS}
    found = compared({variant: ExitRecords.load(path) for variant, path in paths.items() if path.exists()})
    return [{"task": task, "backbone": backbone, "seed": seed, **one} for one in found]

"""Which criterion is best, and whether temperatures help: figures from recorded exits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from fastbert_hf.calibration import (
    ExitRecords,
    ExitRule,
    FoundRule,
    Objective,
    best_rule,
    calibrate,
    certify_one_speed,
    certify_searched,
    rules_of,
    simulate,
)
from fastbert_hf.calibration.curve import candidate_speeds, exit_flops, running_minimum, sweep
from fastbert_hf.calibration.pareto import spoilt
from fastbert_hf.calibration.simulation import exit_heads, uncertainties
from fastbert_hf.calibration.temperature import divide, expected_calibration_error, fit_temperatures
from fastbert_hf.exits.criteria import CRITERIA, criteria_for
from fastbert_hf.flops import full_depth_flops

OBJECTIVES = {
    "drop of at most 1 point": Objective(max_drop=0.01),
    "speed-up of 1.5": Objective(min_speedup=1.5),
    "speed-up of 2": Objective(min_speedup=2.0),
}
SPEEDUPS = (1.5, 2.0, 2.5, 3.0)
PAPERS_SPEEDS = (0.1, 0.3, 0.5, 0.8)
CERTIFIED_DROP, CONFIDENCE = 0.02, 0.95
QUANTILES = (0.05, 0.5, 0.95)
# Where the accuracies of two criteria are compared as a whole, and how often the samples are drawn again for it.
_COMPARED = np.linspace(1.5, 2.5, 21)
_RESAMPLES = 500
_CURVE_SPEEDS = 200
_STORED_SPEEDS = 80


@dataclass(frozen=True)
class Contender:
    """A criterion and the parameter with which a calibration looks at it."""

    criterion: str
    parameter: int = 0

    @property
    def name(self) -> str:
        """As tables call it."""
        return CRITERIA[self.criterion].in_words(self.parameter) if self.compares_speed else self.criterion

    @property
    def compares_speed(self) -> bool:
        """Whether it has an uncertainty, and so a curve over Speeds."""
        return CRITERIA[self.criterion].compares_speed


def contenders(classes: int) -> list[Contender]:
    """All criteria, each with all parameters that a calibration compares."""
    return [
        Contender(name, parameter) for name, one in criteria_for(None).items() for parameter in one.candidates(classes)
    ]


def compare(
    dev: ExitRecords, test: ExitRecords, progress: Callable[[str], None] = lambda doing: None
) -> dict[str, Any]:
    """All figures, as plain values.

    Args:
        dev: samples that choose settings.
        test: samples that score them.
        progress: called with the name of each criterion before its figures are computed.
    """
    found = {}
    curves = {}
    for contender in contenders(dev.shape.num_labels):
        progress(contender.name)
        found[contender.name] = figures(dev, test, contender)
        if contender.compares_speed:
            curves[contender.name] = Curve(test, contender)
    progress("differences to entropy")
    for name, mean in differences(curves, "normalised entropy").items():
        found[name]["mean_accuracy"] = mean
    progress("temperatures")
    scaled = with_temperatures(dev, test, curves)
    progress("Speeds per layer")
    return {
        "layers": {
            "dev_accuracy": dev.right.mean(axis=0).tolist(),
            "test_accuracy": test.right.mean(axis=0).tolist(),
        },
        "mean_tokens": test.lengths.double().mean().item(),
        "criteria": found,
        "temperatures": scaled,
        "searched": {
            "chosen": {
                name: chosen(dev, test, partial(calibrate, dev, objective))
                for name, objective in OBJECTIVES.items()
                if objective.min_speedup is not None
            },
            "certified": certified(test, certify_searched(dev, CERTIFIED_DROP, CONFIDENCE)),
        },
    }


def figures(dev: ExitRecords, test: ExitRecords, contender: Contender, certify: bool = True) -> dict[str, Any]:
    """Uncertainty per layer, curve, chosen settings and, where `dev` is fresh, certified Speed of one criterion."""
    compares_speed = contender.compares_speed
    rules = rules_of(test, contender.criterion, contender.parameter, limit=_STORED_SPEEDS)
    rules.sort(key=lambda one: one.flops_speedup)
    return {
        "uncertainty": uncertainty_by_layer(test, contender) if compares_speed else None,
        "curve": [
            {"flops_speedup": one.flops_speedup, "accuracy": one.accuracy, "threshold": _threshold(one.rule)}
            for one in rules
        ],
        "at_speeds": {f"{speed:g}": _at_speed(test, contender, speed) for speed in PAPERS_SPEEDS if compares_speed},
        "accuracy_at": {f"{at:g}": _accuracy_at(rules, at) for at in SPEEDUPS if compares_speed},
        "chosen": {
            name: chosen(dev, test, partial(best_rule, dev, objective, contender.criterion, contender.parameter))
            for name, objective in OBJECTIVES.items()
        },
        "certified": certified(
            test, certify_one_speed(dev, CERTIFIED_DROP, CONFIDENCE, contender.criterion, contender.parameter)
        )
        if certify
        else None,
    }


def uncertainty_by_layer(records: ExitRecords, contender: Contender) -> list[dict[str, Any]]:
    """Say how the uncertainty of every head spreads, and how well it tells the samples apart that should not leave.

    `wrong_above_right`: wrong predictions from right ones. `spoilt_above_kept`: predictions that are wrong but right at
    full depth from all others, which is what leaving early has to get right.
    """
    uncertainty = uncertainties(records, contender.criterion, contender.parameter)
    return [
        {
            "layer": layer,
            "quantiles": np.quantile(column, QUANTILES).tolist(),
            "below_0.1": float((column < 0.1).mean()),
            "above_0.9": float((column > 0.9).mean()),
            "wrong_above_right": separation(column, right),
            "spoilt_above_kept": separation(column, ~spoils),
        }
        for layer, column, right, spoils in zip(
            records.exit_layers, uncertainty.T, records.right.T, spoilt(records).T, strict=True
        )
    ]


def separation(uncertainty: npt.NDArray[np.float32], good: npt.NDArray[np.bool_]) -> float | None:
    """Return how often a sample that is not `good` is less sure than one that is, ties half (area under the ROC
    curve); 0.5 by chance.

    `None` where all samples are good, or none is.
    """
    count = int(good.sum())
    if count in (0, len(good)):
        return None
    ranks = stats.rankdata(uncertainty)
    others = len(good) - count
    return float((ranks[~good].sum() - others * (others + 1) / 2) / (others * count))


def chosen(dev: ExitRecords, test: ExitRecords, find: Callable[[], Any]) -> dict[str, Any]:
    """Say what the `rule` that `find` chooses on `dev` does on both parts; or why there is none."""
    try:
        rule = find().rule
    except ValueError as reason:
        return {"not_found": str(reason)}
    return on_both(dev, test, rule)


def on_both(dev: ExitRecords, test: ExitRecords, rule: ExitRule) -> dict[str, Any]:
    """Say what `rule` does on both parts."""
    both: dict[str, Any] = {"rule": setting(rule)}
    for name, records in (("dev", dev), ("test", test)):
        result = simulate(records, rule)
        both[name] = {
            "accuracy": result.accuracy,
            "drop": result.drop,
            "flops_speedup": result.flops_speedup,
            "mean_exit_layer": result.mean_exit_layer,
        }
    return both


def certified(test: ExitRecords, certificate: Any) -> dict[str, Any]:
    """A certified rule, and on `test` what it does and the part of the samples that it spoils."""
    rule = certificate.found.rule
    result = simulate(test, rule)
    spoils = spoilt(test)[np.arange(len(test)), exit_heads(test, rule)]
    return {
        "rule": setting(rule),
        "samples": certificate.samples,
        "losses": certificate.losses,
        "tested_rules": certificate.tested_rules,
        "test": {
            "accuracy": result.accuracy,
            "drop": result.drop,
            "spoilt": float(spoils.mean()),
            "flops_speedup": result.flops_speedup,
        },
    }


class Curve:
    """Accuracy against FLOPs speed-up of one Speed for all heads, on samples that are drawn again and again.

    Args:
        records: the samples.
        contender: the criterion.
        compared: speed-ups that accuracies are averaged over.
    """

    def __init__(
        self, records: ExitRecords, contender: Contender, compared: npt.NDArray[np.float64] = _COMPARED
    ) -> None:
        self._compared = compared
        heads = list(range(len(records.student_layers)))
        self._uncertainty = uncertainties(records, contender.criterion, contender.parameter)[:, heads]
        self._speeds = candidate_speeds(running_minimum(self._uncertainty), _CURVE_SPEEDS)
        self._right, self._flops = records.right, exit_flops(records, heads)
        self._full = full_depth_flops(records.shape, records.lengths.numpy()).astype(np.float64)

    def __len__(self) -> int:
        return len(self._right)

    @property
    def fastest(self) -> float:
        """Return the speed-up of the largest Speed."""
        return float(self._sums(np.arange(len(self)))[0][-1])

    def accuracies(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the accuracy on the samples `rows` at each of the compared speed-ups, on straight lines between
        Speeds; beyond the fastest that of the fastest."""
        speedups, right = self._sums(rows)
        return np.interp(self._compared, speedups, right / len(rows))

    def mean_accuracy(self, rows: npt.NDArray[np.int64]) -> float:
        """Return the mean over the compared speed-ups of the accuracy on the samples `rows`."""
        return float(self.accuracies(rows).mean())

    def _sums(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return FLOPs speed-up and right answers on the samples `rows`, by ascending Speed."""
        right, flops = sweep(self._uncertainty[rows], self._speeds, [self._right[rows], self._flops[rows]])
        return self._full[rows].sum() / flops, right


def differences(curves: dict[str, Curve], baseline: str) -> dict[str, dict[str, Any]]:
    """Return the mean accuracy of every curve over its speed-ups, and its difference to that of the curve `baseline`
    with a bootstrap interval over the samples (percentiles, 95 %)."""
    whole, drawn = _resampled(curves, baseline)
    return {
        name: {
            "value": float(whole[name].mean()),
            "difference": float(whole[name].mean() - whole[baseline].mean()),
            "interval": _interval(drawn[name].mean(axis=1) - drawn[baseline].mean(axis=1)),
        }
        for name in curves
    }


def differences_at(curves: dict[str, Curve], baseline: str) -> dict[str, list[dict[str, Any]]]:
    """Return the same at each of the speed-ups, which have to be those of all curves."""
    whole, drawn = _resampled(curves, baseline)
    return {
        name: [
            {"value": value, "difference": value - float(whole[baseline][at]), "interval": _interval(apart[:, at])}
            for at, value in enumerate(whole[name].tolist())
        ]
        for name, apart in ((name, drawn[name] - drawn[baseline]) for name in curves)
    }


def _resampled(
    curves: dict[str, Curve], baseline: str
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, npt.NDArray[np.float64]]]:
    """Return the accuracies of every curve at its speed-ups [x], and those on samples that were drawn again, the same
    for all curves, [resamples, x]."""
    everything = np.arange(len(curves[baseline]))
    draw = np.random.default_rng(0)
    resamples = [draw.integers(len(everything), size=len(everything)) for _ in range(_RESAMPLES)]
    return (
        {name: curve.accuracies(everything) for name, curve in curves.items()},
        {name: np.array([curve.accuracies(rows) for rows in resamples]) for name, curve in curves.items()},
    )


def _interval(drawn: npt.NDArray[np.float64]) -> list[float]:
    return np.quantile(drawn, (0.025, 0.975)).tolist()


def with_temperatures(dev: ExitRecords, test: ExitRecords, curves: dict[str, Curve]) -> dict[str, Any]:
    """Say what changes when every head's logits are divided by a temperature fitted on `dev`.

    Args:
        dev: samples that the temperatures are fitted to, and that choose settings.
        test: samples that score them.
        curves: those of `test` without temperatures, by the name of the criterion.
    """
    temperatures = fit_temperatures(dev)
    scaled_dev, scaled_test = divide(dev, temperatures), divide(test, temperatures)
    found = {}
    for contender in contenders(dev.shape.num_labels):
        if not contender.compares_speed:  # looks at predictions, which stay
            continue
        found[contender.name] = figures(scaled_dev, scaled_test, contender, certify=False)
        pair = {"before": curves[contender.name], "after": Curve(scaled_test, contender)}
        found[contender.name]["mean_accuracy"] = differences(pair, "before")["after"]
    return {
        "temperatures": list(temperatures),
        "calibration_error": {
            name: [expected_calibration_error(logits, test.labels) for logits in records.logits.unbind(dim=1)]
            for name, records in (("before", test), ("after", scaled_test))
        },
        "criteria": found,
    }


def _at_speed(records: ExitRecords, contender: Contender, speed: float) -> dict[str, float]:
    rule = ExitRule.one_speed(records.student_layers, speed, contender.criterion, contender.parameter)
    result = simulate(records, rule)
    return {"accuracy": result.accuracy, "flops_speedup": result.flops_speedup}


def _accuracy_at(rules: Iterable[FoundRule], flops_speedup: float) -> float | None:
    """Between the two rules next to `flops_speedup`; `None` where no rule is as fast."""
    speedups, accuracies = zip(*sorted((one.flops_speedup, one.accuracy) for one in rules), strict=True)
    if flops_speedup > speedups[-1]:
        return None
    return float(np.interp(flops_speedup, speedups, accuracies))


def _threshold(rule: ExitRule) -> float | None:
    """The Speed, or the patience, of all its heads; `None` for full depth."""
    if not rule.layers:
        return None
    return rule.speeds[0] if CRITERIA[rule.criterion].compares_speed else rule.parameter


def setting(rule: ExitRule) -> dict[str, Any]:
    """`rule` as plain values."""
    return {
        "criterion": Contender(rule.criterion, rule.parameter).name,
        "layers": list(rule.layers),
        "speeds": list(rule.speeds),
        "patience": None if CRITERIA[rule.criterion].compares_speed else rule.parameter,
    }

"""Which criterion is best for a model with many classes: figures and tables from recorded exits."""

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
from fastbert_hf.calibration.search import TOP_KS
from fastbert_hf.calibration.simulation import exit_heads, uncertainties
from fastbert_hf.exit_rule import CriterionName
from fastbert_hf.flops import full_depth_flops
from harness import markdown_table

OBJECTIVES = {
    "drop of at most 1 point": Objective(max_drop=0.01),
    "speed-up of 1.5": Objective(min_speedup=1.5),
    "speed-up of 2": Objective(min_speedup=2.0),
}
SPEEDUPS = (1.5, 2.0, 2.5, 3.0)
CERTIFIED_DROP, CONFIDENCE = 0.02, 0.95
QUANTILES = (0.05, 0.5, 0.95)
# Where the accuracies of two criteria are compared as a whole, and how often the samples are drawn again for it.
_COMPARED = np.linspace(1.5, 2.5, 21)
_RESAMPLES = 500
_CURVE_SPEEDS = 200


@dataclass(frozen=True)
class Contender:
    """A criterion and, for "top_k_entropy", its k."""

    criterion: CriterionName
    top_k: int = 2

    @property
    def name(self) -> str:
        """As tables call it."""
        if self.criterion == "top_k_entropy":
            return f"entropy of the top {self.top_k}"
        return {"entropy": "normalised entropy", "confidence": "1 - largest probability"}.get(
            self.criterion, self.criterion
        )


def contenders(classes: int) -> list[Contender]:
    """All criteria, with every k that is below the number of classes."""
    by_k = [Contender("top_k_entropy", k) for k in TOP_KS if k < classes]
    return [Contender("entropy"), *by_k, Contender("confidence"), Contender("patience")]


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
        if contender.criterion != "patience":
            curves[contender.name] = Curve(test, contender)
    progress("differences to entropy")
    for name, difference in differences(curves).items():
        found[name]["mean_accuracy"] = difference
    progress("Speeds per layer")
    return {
        "layers": {
            "dev_accuracy": dev.right.mean(axis=0).tolist(),
            "test_accuracy": test.right.mean(axis=0).tolist(),
        },
        "mean_tokens": test.lengths.double().mean().item(),
        "criteria": found,
        "searched": {
            "chosen": {
                wish: chosen(dev, test, partial(calibrate, dev, objective))
                for wish, objective in OBJECTIVES.items()
                if objective.min_speedup is not None
            },
            "certified": certified(test, certify_searched(dev, CERTIFIED_DROP, CONFIDENCE)),
        },
    }


def figures(dev: ExitRecords, test: ExitRecords, contender: Contender) -> dict[str, Any]:
    """Uncertainty per layer, curve, chosen settings and certified Speed of one criterion."""
    patient = contender.criterion == "patience"
    rules = rules_of(test, contender.criterion, contender.top_k, limit=_CURVE_SPEEDS)
    rules.sort(key=lambda one: one.flops_speedup)
    return {
        "uncertainty": None if patient else uncertainty_by_layer(test, contender),
        "curve": [
            {"flops_speedup": one.flops_speedup, "accuracy": one.accuracy, "rule": _setting(one.rule)} for one in rules
        ],
        "accuracy_at": {} if patient else {f"{at:g}": _accuracy_at(rules, at) for at in SPEEDUPS},
        "chosen": {
            wish: chosen(dev, test, partial(best_rule, dev, objective, contender.criterion, contender.top_k))
            for wish, objective in OBJECTIVES.items()
        },
        "certified": None
        if patient
        else certified(test, certify_one_speed(dev, CERTIFIED_DROP, CONFIDENCE, contender.criterion, contender.top_k)),
    }


def uncertainty_by_layer(records: ExitRecords, contender: Contender) -> list[dict[str, Any]]:
    """How the uncertainty of every head spreads, and how well it tells right predictions from wrong ones."""
    uncertainty = uncertainties(records, contender.criterion, contender.top_k)
    return [
        {
            "layer": layer,
            "quantiles": np.quantile(column, QUANTILES).tolist(),
            "below_0.1": float((column < 0.1).mean()),
            "above_0.9": float((column > 0.9).mean()),
            "wrong_above_right": wrong_above_right(column, right),
        }
        for layer, column, right in zip(records.exit_layers, uncertainty.T, records.right.T, strict=True)
    ]


def wrong_above_right(uncertainty: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> float | None:
    """How often a wrong prediction is less sure than a right one, ties half (area under the ROC curve); 0.5 by chance.

    `None` where all predictions are right, or all are wrong.
    """
    count = int(right.sum())
    if count in (0, len(right)):
        return None
    ranks = stats.rankdata(uncertainty)
    wrong = len(right) - count
    return float((ranks[~right].sum() - wrong * (wrong + 1) / 2) / (wrong * count))


def chosen(dev: ExitRecords, test: ExitRecords, find: Callable[[], Any]) -> dict[str, Any]:
    """What the `rule` that `find` chooses on `dev` does on both parts; or why there is none."""
    try:
        rule = find().rule
    except ValueError as reason:
        return {"not_found": str(reason)}
    return on_both(dev, test, rule)


def on_both(dev: ExitRecords, test: ExitRecords, rule: ExitRule) -> dict[str, Any]:
    """What `rule` does on both parts."""
    both: dict[str, Any] = {"rule": _setting(rule)}
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
        "rule": _setting(rule),
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
    """Accuracy against FLOPs speed-up of one Speed for all heads, on samples that are drawn again and again."""

    def __init__(self, records: ExitRecords, contender: Contender) -> None:
        heads = list(range(len(records.student_layers)))
        self._uncertainty = uncertainties(records, contender.criterion, contender.top_k)[:, heads]
        self._speeds = candidate_speeds(running_minimum(self._uncertainty), _CURVE_SPEEDS)
        self._right, self._flops = records.right, exit_flops(records, heads)
        self._full = full_depth_flops(records.shape, records.lengths.numpy()).astype(np.float64)

    def __len__(self) -> int:
        return len(self._right)

    def mean_accuracy(self, rows: npt.NDArray[np.int64]) -> float:
        """Mean over the speed-ups `_COMPARED` of the accuracy on the samples `rows`."""
        right, flops = sweep(self._uncertainty[rows], self._speeds, [self._right[rows], self._flops[rows]])
        return float(np.interp(_COMPARED, self._full[rows].sum() / flops, right / len(rows)).mean())


def differences(curves: dict[str, Curve]) -> dict[str, dict[str, Any]]:
    """Mean accuracy between speed-ups of 1.5 and 2.5, and its difference to that of the first of `curves` with a
    bootstrap interval over the samples (percentiles, 95 %)."""
    everything = np.arange(len(next(iter(curves.values()))))
    draw = np.random.default_rng(0)
    resamples = [draw.integers(len(everything), size=len(everything)) for _ in range(_RESAMPLES)]
    drawn = {name: np.array([curve.mean_accuracy(rows) for rows in resamples]) for name, curve in curves.items()}
    first = next(iter(curves))
    whole = {name: curve.mean_accuracy(everything) for name, curve in curves.items()}
    return {
        name: {
            "value": whole[name],
            "difference": whole[name] - whole[first],
            "interval": np.quantile(drawn[name] - drawn[first], (0.025, 0.975)).tolist(),
        }
        for name in curves
    }


def _accuracy_at(rules: Iterable[FoundRule], flops_speedup: float) -> float | None:
    """Between the two rules next to `flops_speedup`; `None` where no rule is as fast."""
    speedups, accuracies = zip(*sorted((one.flops_speedup, one.accuracy) for one in rules), strict=True)
    if flops_speedup > speedups[-1]:
        return None
    return float(np.interp(flops_speedup, speedups, accuracies))


def _setting(rule: ExitRule) -> dict[str, Any]:
    return {
        "criterion": Contender(rule.criterion, rule.top_k).name,
        "layers": list(rule.layers),
        "speeds": list(rule.speeds),
        "patience": rule.patience if rule.criterion == "patience" else None,
    }


def markdown(result: dict[str, Any]) -> str:
    """The tables of a result."""
    data, settings, criteria = result["data"], result["settings"], result["criteria"]
    samples = data["samples"]
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    full = result["layers"]["test_accuracy"][-1]
    parts = [
        f"# Many classes: {len(data['classes'])} modules by their docstrings",
        f"{samples['train']:,} docstrings to train, {samples['dev']:,} to choose settings and "
        f"{samples['test']:,} to test, "
        f"{result['mean_tokens']:.0f} tokens on average; {settings['epochs']:g} epochs of fine-tuning, "
        f"{settings['distil_epochs']:g} of self-distillation, seed {settings['seed']}, {settings['precision']}. "
        f"Sources: {versions}. By `python benchmarks/many_classes.py`.",
        "Accuracies are of the test part; FLOPs as the paper counts them, at the lengths of the texts.",
        "## Accuracy of each layer's head",
        markdown_table([{f"layer {n}": f"{a:.1%}" for n, a in enumerate(result["layers"]["test_accuracy"], 1)}]),
        "## Uncertainty: 5 %, 50 % and 95 % of the samples lie below",
        _by_layer(criteria, lambda at: " / ".join(f"{value:.2f}" for value in at["quantiles"])),
        "## How often a wrong prediction is less sure than a right one (0.5 is chance)",
        _by_layer(criteria, lambda at: _or_dash(at["wrong_above_right"], "{:.3f}")),
        f"## One Speed for all layers: accuracy at equal FLOPs (full depth: {full:.1%})",
        _curve_table(criteria),
        "Mean accuracy: over speed-ups from 1.5 to 2.5. Its difference to normalised entropy in points, with a 95 % "
        "bootstrap interval over the test samples.",
        "## Chosen on dev, measured on test: drop in points, FLOPs speed-up",
        "One Speed (or patience) and the best set of heads for it; the last row, of any criterion with a Speed per "
        "layer.",
        _chosen_table(result),
        f"## Certified on dev: drop of at most {100 * CERTIFIED_DROP:g} points with {CONFIDENCE:.0%} confidence "
        "(Learn then Test)",
        _certified_table(result),
        "Spoilt: right at full depth, wrong at the exit; this is what the certificate bounds.",
    ]
    return "\n\n".join(parts)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _by_layer(criteria: dict[str, Any], cell: Callable[[dict[str, Any]], str]) -> str:
    return markdown_table(
        [
            {"": name, **{f"layer {at['layer']}": cell(at) for at in one["uncertainty"]}}
            for name, one in criteria.items()
            if one["uncertainty"] is not None
        ]
    )


def _curve_table(criteria: dict[str, Any]) -> str:
    rows = []
    for name, one in criteria.items():
        if "mean_accuracy" not in one:
            continue
        mean = one["mean_accuracy"]
        low, high = (100 * end for end in mean["interval"])
        cells = {f"{at}x": _or_dash(accuracy, "{:.1%}") for at, accuracy in one["accuracy_at"].items()}
        difference = f"{100 * mean['difference']:+.2f} ({low:+.2f} to {high:+.2f})" if mean["difference"] else "-"
        rows.append({"": name, **cells, "mean accuracy": f"{mean['value']:.2%}", "difference": difference})
    return markdown_table(rows)


def _chosen_table(result: dict[str, Any]) -> str:
    rows = []
    everything = {**result["criteria"], "any, a Speed per layer": result["searched"]}
    for name, one in everything.items():
        cells = {}
        for wish in OBJECTIVES:
            found = one["chosen"].get(wish, {"not_found": ""})
            cells[wish] = (
                "-"
                if "not_found" in found
                else f"{100 * found['test']['drop']:.1f}, {found['test']['flops_speedup']:.2f}x"
            )
        rows.append({"": name, **cells})
    return markdown_table(rows)


def _certified_table(result: dict[str, Any]) -> str:
    rows = []
    everything = {**result["criteria"], "any, a Speed per layer": result["searched"]}
    for name, one in everything.items():
        if one["certified"] is None:
            continue
        found = one["certified"]
        speeds = sorted(set(found["rule"]["speeds"]))
        speed = "none" if not speeds else f"{speeds[0]:.3g}" if len(speeds) == 1 else "per layer"
        rows.append(
            {
                "": name,
                "Speed": speed,
                "tested on": f"{found['samples']:,}",
                "test: drop in points": f"{100 * found['test']['drop']:.1f}",
                "test: spoilt": f"{found['test']['spoilt']:.1%}",
                "test: FLOPs speed-up": f"{found['test']['flops_speedup']:.2f}x",
            }
        )
    return markdown_table(rows)

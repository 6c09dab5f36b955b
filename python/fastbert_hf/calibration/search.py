"""The best exit rule for a target: one Speed or a patience, and which student classifiers are worth asking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from fastbert_hf.calibration.curve import speed_curve
from fastbert_hf.calibration.records import ExitRecords
from fastbert_hf.calibration.simulation import Simulation, macro_f1_of, simulate
from fastbert_hf.exits.calibrated_setting import Objective
from fastbert_hf.exits.criteria import CRITERIA, criteria_for
from fastbert_hf.exits.rule import ExitRule

# A criterion of models that give one class, or "auto" for the best of them.
CriterionChoice: TypeAlias = str

# Speeds that a search looks at; more change the accuracy on some thousand samples by less than its noise.
SEARCHED_SPEEDS = 512
# Of differences between shares of samples.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class FoundRule:
    """An exit rule and what it does on the samples it was found with.

    Attributes:
        rule: the rule.
        accuracy: as in `Simulation`, as are the two that follow.
        drop: of the accuracy.
        flops_speedup: over full depth.
        macro_f1: of its answers; `None`: not computed, or no labels.
    """

    rule: ExitRule
    accuracy: float
    drop: float
    flops_speedup: float
    macro_f1: float | None = None

    @classmethod
    def of(cls, rule: ExitRule, simulation: Simulation) -> FoundRule:
        """Return `rule` with the figures of `simulation`."""
        return cls(rule, simulation.accuracy, simulation.drop, simulation.flops_speedup)


def choose(found: Iterable[FoundRule], objective: Objective) -> FoundRule:
    """Return the best of `found` for `objective`; of equally good ones the first.

    Raises:
        ValueError: none reaches the target; names the nearest.
    """
    found = list(found)
    if objective.max_drop is not None:
        allowed = [one for one in found if one.drop <= objective.max_drop + _ROUNDING]
        if not allowed:
            least = min(one.drop for one in found)
            raise ValueError(f"every rule loses more accuracy than {objective.max_drop:g}; the least is {least:.4f}")
        return max(allowed, key=lambda one: (one.flops_speedup, one.accuracy))
    if objective.min_speedup is None:
        raise ValueError("no record says how long a rule takes; calibrate_to_latency measures it")
    allowed = [one for one in found if one.flops_speedup >= objective.min_speedup]
    if not allowed:
        fastest = max(one.flops_speedup for one in found)
        raise ValueError(
            f"no rule has a FLOPs speed-up of {objective.min_speedup:g} or more; "
            f"the fastest has {fastest:.3g}; ask for less"
        )
    return max(allowed, key=lambda one: (one.accuracy, one.flops_speedup))


def rules_of(
    records: ExitRecords,
    criterion: str = "entropy",
    parameter: int = 0,
    layers: Sequence[int] | None = None,
    limit: int = SEARCHED_SPEEDS,
) -> list[FoundRule]:
    """Return full depth, and every rule of one criterion with one Speed for all layers, or every patience.

    Args:
        records: the samples.
        criterion: when a sample leaves.
        parameter: the number that belongs to it; of a criterion that compares with no Speed the smallest to look at.
        layers: where a student classifier is asked; `None` for all of them.
        limit: Speeds to look at, of those that differ on `records`.
    """
    layers = records.student_layers if layers is None else tuple(layers)
    full_depth = ExitRule.full_depth(criterion, parameter)
    found = [FoundRule.of(full_depth, simulate(records, full_depth))]
    if not CRITERIA[criterion].compares_speed:
        rules = [ExitRule(layers, (), criterion, patience) for patience in range(parameter, len(layers) + 1)]
        return found + [FoundRule.of(rule, simulate(records, rule)) for rule in rules]
    curve = speed_curve(records, layers, criterion, parameter, limit)
    full = records.full_depth_accuracy
    return found + [
        FoundRule(ExitRule.one_speed(layers, speed, criterion, parameter), accuracy, full - accuracy, speedup)
        for speed, accuracy, speedup in zip(curve.speeds, curve.accuracy, curve.flops_speedup, strict=True)
    ]


def best_rule(
    records: ExitRecords,
    objective: Objective,
    criterion: str = "entropy",
    parameter: int = 0,
    limit: int = SEARCHED_SPEEDS,
) -> FoundRule:
    """Return the best single Speed (or patience), and the student classifiers that it is best with.

    A head that rarely lets a sample leave only costs its FLOPs. Starting with all heads, the one without which the
    best rule is better by the most is left out, until leaving out any makes it worse or nothing better (greedy
    backward elimination: at most E^2 / 2 curves; the best subset of heads may be another).

    Raises:
        ValueError: no rule reaches the target.
    """
    layers = records.student_layers
    everything = rules_of(records, criterion, parameter, layers, limit)
    best = _best_or_none(everything, objective)
    while layers:
        fewer = []
        for left_out in layers:
            kept = tuple(layer for layer in layers if layer != left_out)
            found = _best_or_none(rules_of(records, criterion, parameter, kept, limit), objective)
            if found is not None:
                fewer.append((found, kept))
        if not fewer:
            break
        candidate, layers = max(fewer, key=lambda pair: _merit(pair[0], objective))
        if best is not None and _merit(candidate, objective) <= _merit(best, objective):
            break
        best = candidate
    return choose(everything, objective) if best is None else best


def compare_criteria(
    records: ExitRecords,
    objective: Objective,
    criterion: CriterionChoice = "auto",
    limit: int = SEARCHED_SPEEDS,
) -> list[FoundRule]:
    """Return the best rule of every criterion, each with one Speed or patience, the best criterion first.

    A criterion is tried with each of its `candidates`. Those that cannot reach the target are missing; the figures are
    those on `records`, on which each rule was chosen too.

    Args:
        records: the samples.
        objective: the target.
        criterion: to look at this one only; "auto" for all.
        limit: Speeds to look at, of those that differ on `records`.

    Raises:
        ValueError: no criterion reaches the target, or one that is the entropy with so few classes.
    """
    check_criterion(criterion, records.shape.num_labels, records.problem_type)
    names = [*criteria_for(records.problem_type)] if criterion == "auto" else [criterion]
    found, failures = [], []
    for name in names:
        for parameter in CRITERIA[name].candidates(records.shape.num_labels):
            try:
                found.append(best_rule(records, objective, name, parameter, limit))
            except ValueError as error:
                failures.append(error)
    if not found:
        raise failures[0]
    best_first = sorted(found, key=lambda one: _merit(one, objective), reverse=True)
    return best_first if records.labels is None else [_with_macro_f1(records, one) for one in best_first]


def _with_macro_f1(records: ExitRecords, found: FoundRule) -> FoundRule:
    return replace(found, macro_f1=macro_f1_of(records, simulate(records, found.rule).predictions))


def check_criterion(criterion: CriterionChoice, num_labels: int, problem_type: str | None = None) -> None:
    """Raise `ValueError` for a criterion that is not for models of this `problem_type`, and for one that is the entropy
    with so few classes."""
    if criterion == "auto":
        return
    known = criteria_for(problem_type)
    if criterion not in known:
        raise ValueError(f"unknown criterion {criterion!r}; choose one of auto, {', '.join(known)}")
    if not known[criterion].candidates(num_labels):
        raise ValueError(f"with {num_labels} classes {criterion} is the entropy; choose entropy")


def _best_or_none(found: Iterable[FoundRule], objective: Objective) -> FoundRule | None:
    try:
        return choose(found, objective)
    except ValueError:
        return None


def _merit(found: FoundRule, objective: Objective) -> tuple[float, float]:
    if objective.max_drop is not None:
        return found.flops_speedup, found.accuracy
    return found.accuracy, found.flops_speedup

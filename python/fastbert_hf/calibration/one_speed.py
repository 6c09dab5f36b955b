"""Rules with one Speed, or one patience, for all layers they ask: in orders from careful to fast, fixed beforehand.

No sample has a say in a rule or its place, so that all samples may test them (`guarantee`).

One Speed leaves no head out, and one head can spoil all that the others gain: exit zero, which reads words alone, may
be sure of what is wrong. So where a model has it there are two orders, one of rules without it and one of rules with
it; a model without it has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fastbert_hf.calibration.curve import sweep
from fastbert_hf.calibration.pareto import spoilt
from fastbert_hf.calibration.records import ExitRecords
from fastbert_hf.calibration.search import rules_of
from fastbert_hf.calibration.simulation import (
    Integers,
    below,
    exit_heads,
    first_exits,
    indices_of,
    uncertainties,
)
from fastbert_hf.exits.criteria import CRITERIA, criterion_of
from fastbert_hf.exits.rule import ExitRule

# The grid of Speeds, fixed here, never fitted to data. Fine near 0, where a sure model has its samples.
FIXED_SPEEDS = np.union1d(np.geomspace(1e-6, 1e-2, 41), np.linspace(0.01, 1, 100))
# The same where Speeds are changes of a score, in multiples of how far one may be from full depth's.
FIXED_MULTIPLES = np.geomspace(1e-3, 1e3, 121)


def asked_layers(student_layers: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the layers that rules with one Speed ask, for each order of rules: those without layer 0, then all.

    Args:
        student_layers: ascending, 0 for exit zero.

    Returns:
        One tuple where there is no exit zero, or nothing but it.
    """
    behind = tuple(layer for layer in student_layers if layer > 0)
    return (student_layers,) if behind in ((), student_layers) else (behind, student_layers)


def confidence_of_each(confidence: float, sequences: int) -> float:
    """Return the confidence of each of so many `sequences` that are tested, for `confidence` of all of them together.

    Each has an equal share of the level 1 - confidence (Bonferroni).
    """
    return 1 - (1 - confidence) / sequences


def one_speed_sequences(records: ExitRecords, criterion: str, parameter: int = 0) -> list[list[ExitRule]]:
    """Return the orders of rules, from careful to fast each, for `asked_layers` in turn; no sample has a say in them.

    Args:
        records: for the layers, and for how far a score may be from full depth's.
        criterion: when a sample leaves.
        parameter: the number that belongs to it; of a criterion that compares with no Speed the smallest to look at.
    """
    return [_rules(records, layers, criterion, parameter) for layers in asked_layers(records.student_layers)]


def patient_first(records: ExitRecords, criterion: str, parameter: int, layers: tuple[int, ...]) -> list[ExitRule]:
    """Return the rules of a criterion that compares with no Speed, from the most predictions in a row to the fewest."""
    return [one.rule for one in reversed(rules_of(records, criterion, parameter, layers)[1:])]  # without full depth


def one_speed_exits(records: ExitRecords, rules: Sequence[ExitRule]) -> Iterator[Integers]:
    """Yield `exit_heads` of each of the rules of one order, whose uncertainties are computed once."""
    if not _go_by_speed(rules):
        yield from (exit_heads(records, rule) for rule in rules)
        return
    first, heads = rules[0], len(records.exit_layers)
    asked = indices_of(records, first.layers)
    uncertainty = uncertainties(records, first.criterion, first.parameter, first.layers)[:, :-1]
    for rule in rules:
        yield first_exits(below(uncertainty, rule.speeds[0]), asked, heads)


def one_speed_losses(records: ExitRecords, rules: Sequence[ExitRule]) -> Integers:
    """Return how many samples each of the rules of one order spoils: right at full depth, wrong at the exit."""
    lost = spoilt(records)
    if not _go_by_speed(rules):
        rows = np.arange(len(records))
        return np.asarray([lost[rows, exits].sum() for exits in one_speed_exits(records, rules)], dtype=np.int64)
    first = rules[0]
    asked = indices_of(records, first.layers)
    uncertainty = uncertainties(records, first.criterion, first.parameter, first.layers)[:, :-1]
    speeds = np.asarray([rule.speeds[0] for rule in rules])
    return sweep(uncertainty, speeds, [lost[:, [*asked, -1]]])[0].round().astype(np.int64)


def _rules(records: ExitRecords, layers: tuple[int, ...], criterion: str, parameter: int) -> list[ExitRule]:
    known = criterion_of(criterion, parameter)
    if not known.compares_speed:
        return patient_first(records, criterion, parameter, layers)
    speeds = FIXED_SPEEDS
    if known.compares_heads:
        assert records.max_score_change is not None  # or no answer is right or wrong
        speeds = records.max_score_change * FIXED_MULTIPLES
    return [ExitRule.one_speed(layers, float(speed), criterion, parameter) for speed in speeds]


def _go_by_speed(rules: Sequence[ExitRule]) -> bool:
    return bool(rules) and CRITERIA[rules[0].criterion].compares_speed

"""The guarantee on draws from a population whose truth is known, its refusals, and the saved setting."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from fastbert_hf.calibration import (
    ExitRecords,
    ExitRule,
    Objective,
    calibrate,
    certify,
    certify_one_speed,
    certify_searched,
    check_samples,
    choose,
    guarantee,
    pareto_front,
    rules_of,
    split_rows,
)
from fastbert_hf.calibration.guarantee import enough_samples, fixed_sequence, p_values
from fastbert_hf.calibration.one_speed import FIXED_SPEEDS
from fastbert_hf.exits.criteria import CRITERIA, criteria_for, default_criterion
from fastbert_hf.flops import ModelShape
from helpers.populations import POPULATIONS, losses_of, make_population

DRAWS = 500


def make_cliff(size: int, spoilt_share: float) -> ExitRecords:
    """At Speeds above 0.3, early exits spoil `spoilt_share` of the samples; below, none."""
    classes = torch.arange(size) % 2
    right = torch.nn.functional.one_hot(classes, 2).float()
    logits = torch.zeros(size, 2, 2)
    logits[:, 0] = 20 * right  # sure and right
    spoilt = torch.randperm(size, generator=torch.Generator().manual_seed(1))[: round(spoilt_share * size)]
    logits[spoilt, 0] = 2.9 * (1 - right[spoilt])  # uncertainty 0.3, wrong
    logits[:, 1] = 9 * right
    return ExitRecords(logits, classes, torch.full((size,), 9), ModelShape(256, 1024, 2, 16, 2))


def one_speed(population: ExitRecords, speed: float) -> ExitRule:
    """The same Speed at both student classifiers."""
    return ExitRule.one_speed((1, 2), speed, default_criterion(population.problem_type))


def draws(population: ExitRecords, size: int, count: int = DRAWS):
    """Rows of the population, drawn at random."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        yield torch.randint(len(population), (size,), generator=generator)


def risk_of(population: ExitRecords, rule: ExitRule) -> float:
    return float(losses_of(population, rule).mean())


def most_violations(level: float, count: int = DRAWS) -> int:
    return int(stats.binom.ppf(0.999, count, level))


@pytest.mark.parametrize(
    ("kind", "max_risk"),
    [("labels", 0.03), ("no labels", 0.03), pytest.param("multi-label", 0.04, marks=pytest.mark.proof)],
)
def test_one_speed_keeps_the_promise_and_the_best_on_the_samples_does_not(kind, max_risk) -> None:
    population, level = POPULATIONS[kind](8_000), 0.1
    losses = {float(speed): losses_of(population, one_speed(population, speed)) for speed in FIXED_SPEEDS}
    truth = {speed: lost.mean() for speed, lost in losses.items()}
    coarse = [speed for speed in list(truth)[::6] if truth[speed] < 2 * max_risk]
    violations = naive_violations = faster = 0
    for rows in draws(population, 500):
        certificate = certify_one_speed(population.rows(rows), max_risk, 1 - level)
        assert certificate.p_value <= level + 1e-12
        speeds = certificate.found.rule.speeds
        violations += bool(speeds) and truth[speeds[0]] > max_risk
        faster += certificate.found.flops_speedup > 1.2
        naive = [speed for speed in coarse if losses[speed][rows.numpy()].mean() <= max_risk]
        naive_violations += truth[max(naive)] > max_risk
    print(f"{kind}: {violations} of {DRAWS} draws break the promise, the best on the samples {naive_violations}")
    assert violations <= most_violations(level)
    assert naive_violations > most_violations(level)  # so the draws are hard enough for the test to mean something
    assert faster > DRAWS / 2


def test_level_is_used_up_where_the_risk_jumps_just_above() -> None:
    """The hardest case for the test: all that is fast has a risk just above what is allowed."""
    population, max_drop, level = make_cliff(20_000, 0.0505), 0.05, 0.1
    violations = 0
    for rows in draws(population, 800):
        sample = population.rows(rows)
        rule = certify_one_speed(sample, max_drop, 1 - level).found.rule
        violations += risk_of(sample, rule) > 0 and rule.speeds[0] > 0.3
    assert level * DRAWS / 2 < violations <= most_violations(level)


@pytest.mark.proof
@pytest.mark.long
def test_searched_rules_keep_the_promise(monkeypatch) -> None:
    # The promise holds for any search, so a coarse one will do.
    coarse = functools.partial(pareto_front, beam_width=24, speeds_per_layer=5)
    monkeypatch.setattr(guarantee, "pareto_front", coarse)
    monkeypatch.setattr(
        guarantee, "compare_criteria", lambda records, wish, _: [choose(rules_of(records, limit=12), wish)]
    )
    monkeypatch.setattr(guarantee, "TESTED_RULES", 8)
    population, max_drop, level = make_population(5_000), 0.05, 0.2
    violations, faster, count = 0, 0, 300
    for number, rows in enumerate(draws(population, 240, count)):
        certificate = certify_searched(population.rows(rows), max_drop, 1 - level, "entropy", seed=number)
        violations += risk_of(population, certificate.found.rule) > max_drop
        faster += certificate.found.flops_speedup > 1.2
    assert violations <= most_violations(level, count)
    assert faster > count / 2


def test_few_samples_guarantee_more_than_full_depth() -> None:
    """The fastest rule that spoils none of the choosing samples often fails; more careful ones are tested before it."""
    population = make_population(20_000, heads=4)
    for number, rows in enumerate(draws(population, 600, 8)):
        assert certify_searched(population.rows(rows), 0.02, seed=number).found.flops_speedup > 1.2


@pytest.mark.parametrize("criterion", sorted(criteria_for(None).keys() - {"entropy"}))
def test_named_criterion_is_the_one_that_is_certified(criterion) -> None:
    records = make_population(600, heads=4)
    candidates = CRITERIA[criterion].candidates(2)
    if not candidates:
        with pytest.raises(ValueError, match=f"with 2 classes {criterion} is the entropy; choose entropy"):
            certify_searched(records, 0.08, criterion=criterion)
        return
    for certificate in (
        certify_one_speed(records, 0.08, 0.9, criterion, candidates[0]),
        certify_searched(records, 0.08, 0.9, criterion),
    ):
        assert certificate.found.rule.criterion == criterion and certificate.found.flops_speedup > 1
        assert certificate.p_value <= 0.1 and certificate.losses / certificate.samples < 0.08


def test_samples_that_fitted_temperatures_are_not_tested() -> None:
    """Neither are they fewer than one half, by which temperatures can be told."""
    records = make_population(600)
    choosing, testing = split_rows(600, 0.5, seed=5)
    assert sorted([*choosing.tolist(), *testing.tolist()]) == list(range(600))
    found = {}
    for search in ("searched", "one_speed"):
        setting = calibrate(records, Objective(max_drop=0.05), search=search, temperatures_fitted=True, seed=5)
        assert (setting.evidence.samples, setting.evidence.samples_for_choosing) == (300, 300)
        found[search] = setting
    expected = certify_one_speed(records.rows(testing), 0.05).found
    assert (found["one_speed"].rule, found["one_speed"].figures.accuracy) == (expected.rule, expected.accuracy)
    with pytest.raises(ValueError, match="598 samples"):
        check_samples(597, records.labels[:597], Objective(max_drop=0.01), 0.95, "one_speed", temperatures_fitted=True)


def test_choosing_and_testing_share_no_sample(monkeypatch) -> None:
    """Answers on the tested samples decide how many rules pass, and never which rules are tested."""
    tested_rules = []

    def recording(records, rules, *arguments):
        tested_rules.append(rules)
        return certify(records, rules, *arguments)

    monkeypatch.setattr(guarantee, "certify", recording)
    records = make_population(400)
    before = certify_searched(records, 0.05, seed=3)
    assert before.samples == 320 == len(before.tested_rows.unique())
    logits = records.logits.clone()
    logits[before.tested_rows, :2] = -5 * logits[before.tested_rows, 2:]  # sure, and wrong where full depth is right
    after = certify_searched(replace(records, logits=logits), 0.05, seed=3)
    assert torch.equal(after.tested_rows, before.tested_rows)
    assert tested_rules[0] == tested_rules[1] and len(tested_rules[0]) > 5
    assert after.found.flops_speedup < before.found.flops_speedup


def test_nothing_but_full_depth_passes_where_early_exits_spoil() -> None:
    records = make_cliff(400, 0.5)
    logits = records.logits.clone()
    logits[:, 0] = -logits[:, 1]  # sure and wrong
    certificate = certify_one_speed(replace(records, logits=logits), 0.05)
    assert (certificate.found.rule.layers, certificate.found.flops_speedup) == ((), 1.0)
    assert (certificate.losses, certificate.p_value) == (0, 0.0)


def test_p_values_are_exact() -> None:
    chance = Fraction(3, 100)
    for losses in (0, 1, 5, 40):
        terms = (math.comb(40, k) * chance**k * (1 - chance) ** (40 - k) for k in range(losses + 1))
        assert p_values(losses, 40, 0.03) == pytest.approx(float(sum(terms)), rel=1e-12)


def test_sequence_ends_at_the_first_failure() -> None:
    assert fixed_sequence(np.array([0, 0, 99, 0]), 100, 0.05, 0.95) == (2, 3)
    assert fixed_sequence(np.array([0, 1]), 100, 0.05, 0.95) == (2, 2)
    assert fixed_sequence(np.array([50]), 100, 0.05, 0.95) == (0, 1)
    assert fixed_sequence(np.array([], dtype=np.int64), 100, 0.05, 0.95) == (0, 0)


def test_rules_given_by_the_caller_are_tested_in_their_order() -> None:
    records = make_population(400)
    careful, fast = ExitRule((1, 2), (0.05, 0.05)), ExitRule((1, 2), (1.0, 1.0))
    assert certify(records, [careful, fast], 0.05, 0.95).found.rule == careful
    stopped = certify(records, [fast, careful], 0.05, 0.95)
    assert (stopped.found.rule.layers, stopped.found.flops_speedup, stopped.tested_rules) == ((), 1.0, 1)


@pytest.mark.parametrize(("max_drop", "confidence", "needed"), [(0.01, 0.95, 299), (0.05, 0.9, 45), (0.5, 0.5, 1)])
def test_enough_samples_is_the_smallest_number(max_drop, confidence, needed) -> None:
    assert enough_samples(max_drop, confidence) == needed
    assert stats.binom.cdf(0, needed, max_drop) <= 1 - confidence + 1e-12
    assert needed == 1 or stats.binom.cdf(0, needed - 1, max_drop) > 1 - confidence


def harder(population: ExitRecords, share: float) -> ExitRecords:
    """Another traffic: of so many samples the first heads know the sure opposite of what the last one answers."""
    logits = population.logits.clone()
    rows = torch.rand(len(population), generator=torch.Generator().manual_seed(3)) < share
    logits[rows, :-1] = -2 * logits[rows, -1:]
    return replace(population, logits=logits)


@pytest.mark.parametrize("kind", ["no labels", "multi-label"])
def test_another_traffic_breaks_the_promise(kind) -> None:
    """The promise is of samples from the distribution of the calibration, and of no others."""
    population, level, count = POPULATIONS[kind](4_000), 0.1, 60
    shifted = harder(population, 0.1)
    broken_there = broken_here = 0
    for rows in draws(population, 500, count):
        rule = certify_one_speed(population.rows(rows), 0.05, 1 - level).found.rule
        broken_here += risk_of(population, rule) > 0.05
        broken_there += risk_of(shifted, rule) > 0.05
    print(f"{kind}: of {count} promises {broken_here} are broken on their own traffic, {broken_there} on another")
    assert broken_here <= most_violations(level, count)
    assert broken_there > count / 2

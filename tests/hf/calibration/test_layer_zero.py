"""One Speed in models with exit zero: rules without layer 0 and with it share the level; the faster one is taken."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fastbert_hf.calibration import ExitRecords, ExitRule, Objective, calibrate, certify, certify_one_speed, simulate
from fastbert_hf.calibration.calibrating import candidate_rules
from fastbert_hf.calibration.guarantee import enough_samples
from fastbert_hf.calibration.one_speed import FIXED_SPEEDS, asked_layers, one_speed_losses, one_speed_sequences
from fastbert_hf.flops import ModelShape
from helpers.populations import POPULATIONS, losses_of, make_population, make_score_population, with_layer_zero

KINDS = {**POPULATIONS, "scores": make_score_population}
MAX_RISK = 0.08


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_that_is_surely_wrong_is_not_asked_and_costs_no_gain(kind: str) -> None:
    records = KINDS[kind](1_000)
    spoilt = with_layer_zero(records, helps=False)
    found, alone = certify_one_speed(spoilt, MAX_RISK, 0.9), certify_one_speed(records, MAX_RISK, 0.95)
    assert (found.sequences, alone.sequences) == (2, 1)
    assert found.found.rule == alone.found.rule and 0 not in found.found.rule.layers
    assert found.found.flops_speedup == alone.found.flops_speedup > 1.2
    # Rules that all ask layer 0 have nothing to offer, at the full level neither.
    with_it = one_speed_sequences(spoilt, found.found.rule.criterion)[1]
    assert with_it[0].layers == spoilt.student_layers
    assert certify(spoilt, with_it, MAX_RISK, 0.9).found.rule.layers == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_that_helps_is_asked(kind: str) -> None:
    records = KINDS[kind](1_000)
    found, alone = (certify_one_speed(one, MAX_RISK, 0.9) for one in (with_layer_zero(records, helps=True), records))
    assert found.found.rule.layers == (0, *records.student_layers)
    assert found.found.flops_speedup > 1.2 * alone.found.flops_speedup
    assert found.p_value <= 0.05  # half of the level


def make_two_cliffs(size: int, spoilt_share: float) -> ExitRecords:
    """Above Speed 0.3 all leave, and layers 0 and 1 spoil `spoilt_share` each, of other samples; else nobody leaves."""
    classes = torch.arange(size) % 2
    right = torch.nn.functional.one_hot(classes, 2).float()
    logits = torch.stack([2.9 * right, 2.9 * right, 9 * right], dim=1)  # uncertainty 0.3 but for the last
    for head in (0, 1):
        rows = torch.randperm(size, generator=torch.Generator().manual_seed(head))[: round(spoilt_share * size)]
        logits[rows, head] = 2.9 * (1 - right[rows])
    shape = ModelShape(256, 1024, 2, 16, 2, exit_layers=(0, 1, 2))
    return ExitRecords(logits, classes, torch.full((size,), 9), shape)


def test_both_orders_together_break_no_more_promises_than_one_may() -> None:
    """The hardest case: with layer 0 and without it, all that is fast has a risk just above what is allowed."""
    population, max_drop, level, count = make_two_cliffs(20_000, 0.0501), 0.05, 0.3, 150
    lost = np.stack([losses_of(population, ExitRule.one_speed(layers, 0.9)) for layers in ((1,), (0, 1))])
    assert (lost.mean(axis=1) == 0.0501).all() and (lost[0] & lost[1]).mean() < 0.01
    most, violations, at_full_level = stats.binom.ppf(0.999, count, level), 0, 0
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        rows = torch.randint(len(population), (800,), generator=generator)
        rule = certify_one_speed(population.rows(rows), max_drop, 1 - level).found.rule
        violations += bool(rule.layers) and rule.speeds[0] > 0.3
        at_full_level += bool((stats.binom.cdf(lost[:, rows].sum(axis=1), 800, max_drop) <= level).any())
    print(f"{violations} of {count} promises at level {level} are broken, {at_full_level} with two orders at all of it")
    assert level * count / 2 < violations <= most < at_full_level


def test_the_number_of_samples_alone_decides_whether_layer_zero_is_asked() -> None:
    records = make_population(400).without_labels()
    perfect = with_layer_zero(records, helps=True)
    perfect.logits[:, 0] = 5 * perfect.logits[:, -1]
    few, enough = (certify_one_speed(perfect.rows(torch.arange(number)), 0.01) for number in (367, 368))
    assert enough_samples(0.01, 0.975) == 368
    assert (few.sequences, enough.sequences) == (1, 2)
    assert few.found == certify_one_speed(records.rows(torch.arange(367)), 0.01).found
    assert enough.found.rule.layers == (0, 1, 2) and enough.losses == 0
    with pytest.raises(ValueError, match="299 samples are enough if none of theirs differs"):
        certify_one_speed(perfect.rows(torch.arange(298)), 0.01)
    # Where layer 0 is the only student there is one order, and all of the level.
    shape = replace(perfect.shape, exit_layers=(0, 3))
    only = replace(perfect, logits=perfect.logits[:, [0, -1]].contiguous(), shape=shape).rows(torch.arange(299))
    found = certify_one_speed(only, 0.01)
    assert (found.found.rule.layers, found.sequences) == ((0,), 1)


@pytest.mark.parametrize(
    ("students", "orders"),
    [((1, 2), [(1, 2)]), ((0, 1, 3), [(1, 3), (0, 1, 3)]), ((0,), [(0,)]), ((), [()])],
)
def test_layers_of_each_order(students: tuple[int, ...], orders: list[tuple[int, ...]]) -> None:
    assert list(asked_layers(students)) == orders


@pytest.mark.parametrize(("criterion", "parameter"), [("entropy", 0), ("patience", 1)])
def test_no_sample_has_a_say_in_the_orders(criterion: str, parameter: int) -> None:
    records = with_layer_zero(make_population(60), helps=False)
    orders = one_speed_sequences(records, criterion, parameter)
    other = replace(records, logits=-3 * records.logits.flip(0))
    assert orders == one_speed_sequences(other, criterion, parameter)
    assert [rules[0].layers for rules in orders] == [(1, 2), (0, 1, 2)]
    if criterion == "entropy":
        assert [rule.speeds[0] for rule in orders[1]] == FIXED_SPEEDS.tolist()
    for rules in orders:
        losses = one_speed_losses(records, rules)
        assert losses.tolist() == [losses_of(records, rule).sum() for rule in rules]


def test_targets_without_a_guarantee_leave_it_out_too() -> None:
    records, wish = make_population(400), Objective(min_speedup=1.3)
    spoilt, helped = (with_layer_zero(records, helps=helps) for helps in (False, True))
    assert calibrate(spoilt, wish, search="one_speed").rule == calibrate(records, wish, search="one_speed").rule
    rule = calibrate(helped, wish, search="one_speed").rule
    assert rule.layers == (0, 1, 2) and simulate(helped, rule).flops_speedup > 1.3
    asked = {found.rule.layers for found in candidate_rules(spoilt, "one_speed", "auto")}  # for a latency
    assert asked == {(), (1, 2), (0, 1, 2)}


def test_the_evidence_says_what_was_tested() -> None:
    wish, grid = Objective(max_disagreement=0.05), "one Speed (or patience) of a grid fixed beforehand"
    needed = math.ceil(math.log(0.025) / math.log(0.95))
    for size, words in (
        (needed - 1, f"{grid}, without layer 0 (with it they take {needed} samples); Learn then Test"),
        (needed, f"{grid}, without layer 0 and with it, each at half of the level; Learn then Test"),
    ):
        records = with_layer_zero(make_population(size), helps=True)
        assert calibrate(records, wish, search="one_speed").evidence.method.startswith(words)
    plain = calibrate(make_population(100), wish, search="one_speed").evidence.method
    assert plain.startswith(f"{grid}; Learn then Test")

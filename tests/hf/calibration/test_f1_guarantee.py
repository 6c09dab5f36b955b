"""The promise of F1: its inequality on random answers, its test on draws from a known population, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from fastbert_hf.calibration import CalibratedSetting, ExitRecords, ExitRule, Objective, calibrate, simulate
from fastbert_hf.calibration.f1_guarantee import certify_f1, check_f1_samples, max_share, of_classes
from fastbert_hf.calibration.one_speed import FIXED_SPEEDS, one_speed_exits, one_speed_sequences
from fastbert_hf.calibration.simulation import exit_heads
from fastbert_hf.flops import ModelShape
from helpers.populations import with_layer_zero

CLASSES = 3


def make_population(size: int, rare: float = 0.2, seed: int = 0) -> ExitRecords:
    """Samples of three classes, one of them rare; the deeper the head, the more of them it gets right."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.tensor([1 - rare - 0.3, 0.3, rare])
    labels = share.multinomial(size, replacement=True, generator=generator)
    logits = torch.randn(size, 3, CLASSES, generator=generator)
    ease = torch.linspace(2, 5, 3) - 3 * torch.rand(size, 1, generator=generator)
    logits[torch.arange(size), :, labels] += ease
    return ExitRecords(logits, labels, torch.full((size,), 9), ModelShape(256, 1024, 3, 16, CLASSES))


def f1_of(labels: list[int], answers: list[int], number: int) -> float:
    right = sum(label == answer == number for label, answer in zip(labels, answers, strict=True))
    return 2 * right / (labels.count(number) + answers.count(number))


def worst_falls(labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Return by how much the F1 of the worst class falls from the last of `answers` [rules, n] to each, [rules]."""
    classes = np.arange(CLASSES)[:, None, None]
    right = ((answers == classes) & (labels == classes)).sum(axis=-1)
    f1 = 2 * right / ((answers == classes).sum(axis=-1) + (labels == classes).sum(axis=-1))
    return (f1[:, -1:] - f1).max(axis=0)


def test_no_f1_falls_by_more_than_the_lost_samples_allow() -> None:
    """The inequality of the module, for any answers of full depth and of the rule."""
    generator = torch.Generator().manual_seed(0)
    tightest = 0.0
    for trial in range(200):
        size = 40
        labels = torch.randint(CLASSES, (size,), generator=generator)
        noise = 0.9 * torch.rand(2, 1, generator=generator)
        wrong = torch.rand(2, size, generator=generator) < noise
        before, now = torch.where(wrong, torch.randint(CLASSES, (2, size), generator=generator), labels)
        logits = torch.nn.functional.one_hot(torch.stack([now, before], dim=1), CLASSES).float() * 50
        records = ExitRecords(logits, labels, torch.full((size,), 9), ModelShape(32, 64, 2, 16, CLASSES))
        counts, lost = of_classes(records, np.zeros(size, dtype=np.int64))  # everybody leaves at the first head
        for number in range(CLASSES):
            had, has = before.tolist(), now.tolist()
            mentioned = [number in trio for trio in zip(labels.tolist(), had, has, strict=True)]
            assert counts[number] == sum(mentioned)
            if not (labels.tolist() + had).count(number) or not (labels.tolist() + has).count(number):
                continue
            fall = f1_of(labels.tolist(), had, number) - f1_of(labels.tolist(), has, number)
            share = lost[number] / counts[number]
            assert fall <= 2 * share / (1 + share) + 1e-12, trial
            if share:
                tightest = max(tightest, fall / (2 * share / (1 + share)))
    assert tightest > 0.5  # so the bound is not idle


def test_the_bound_is_reached_where_all_that_was_right_is_lost() -> None:
    labels = torch.tensor([1] * 4 + [0] * 2)
    before, now = torch.tensor([1, 0, 0, 0, 0, 0]), torch.zeros(6, dtype=torch.int64)
    logits = torch.nn.functional.one_hot(torch.stack([now, before], dim=1), 2).float() * 50
    records = ExitRecords(logits, labels, torch.full((6,), 9), ModelShape(32, 64, 2, 16, 2))
    counts, lost = of_classes(records, np.zeros(6, dtype=np.int64))
    assert (counts[1], lost[1]) == (4, 1) and f1_of(labels.tolist(), before.tolist(), 1) == pytest.approx(0.4)
    assert max_share(0.4) == pytest.approx(1 / 4)  # 0.4 fall to 0


def test_the_promise_is_kept_where_the_measured_fall_alone_would_break_it() -> None:
    population, fall, level, draws = make_population(6_000), 0.12, 0.1, 40
    labels = population.known_labels.numpy()
    rules = [ExitRule.one_speed((1, 2), speed) for speed in (*FIXED_SPEEDS.tolist(), 0.0)]  # the last is full depth
    answers = np.stack([simulate(population, rule).predictions for rule in rules])
    truth = worst_falls(labels, answers)
    assert truth.max() > fall > truth.min()  # or nothing could be broken, or kept
    generator = torch.Generator().manual_seed(7)
    violations = naive_violations = faster = 0
    for _ in range(draws):
        drawn = torch.randint(len(population), (600,), generator=generator)
        certificate = certify_f1(population.rows(drawn), fall, 1 - level)
        assert certificate.p_value <= level and certificate.max_risk == max_share(fall)
        speeds = certificate.found.rule.speeds
        violations += bool(speeds) and truth[FIXED_SPEEDS.tolist().index(speeds[0])] > fall
        faster += certificate.found.flops_speedup > 1.1
        # The naive choice: the highest Speed at which these samples lose no more.
        seen = worst_falls(labels[drawn], answers[:, drawn])[:-1]
        naive_violations += truth[np.flatnonzero(seen <= fall)[-1]] > fall
    most = stats.binom.ppf(0.999, draws, level)
    print(f"{draws} promises at level {level}: {violations} broken, {naive_violations} by the naive choice")
    assert violations <= most < naive_violations
    assert faster > draws / 2


def test_the_class_that_shows_least_decides() -> None:
    records = make_population(3_000)
    found = certify_f1(records, 0.15)
    counts, lost = of_classes(records, exit_heads(records, found.found.rule))
    values = stats.binom.cdf(lost, counts, max_share(0.15))
    assert found.p_value == pytest.approx(values.max()) and found.samples == counts[np.argmax(values)]


@pytest.mark.parametrize(("criterion", "parameter"), [("entropy", 0), ("patience", 1)])
def test_exits_of_the_grid_are_those_of_its_rules(criterion, parameter) -> None:
    records = with_layer_zero(make_population(50), helps=True)
    orders = one_speed_sequences(records, criterion, parameter)
    assert [rules[0].layers for rules in orders] == [(1, 2), (0, 1, 2)]
    pairs = [pair for rules in orders for pair in zip(rules, one_speed_exits(records, rules), strict=True)]
    for rule, exits in pairs[::20] if criterion == "entropy" else pairs:
        assert exits.tolist() == exit_heads(records, rule).tolist()


def test_a_setting_keeps_f1_and_says_so(tmp_path) -> None:
    records = make_population(3_000)
    setting = calibrate(records, Objective(max_f1_drop=0.15))
    assert setting.rule == certify_f1(records, 0.15).found.rule and setting.evidence.samples == 3_000
    assert "the F1 of no class falls by more than 0.15" in setting.evidence.guarantee
    labels, answers = records.known_labels.tolist(), simulate(records, setting.rule).predictions.tolist()
    assert setting.figures.macro_f1 == pytest.approx(sum(f1_of(labels, answers, k) for k in range(CLASSES)) / CLASSES)
    setting.save(tmp_path)
    assert CalibratedSetting.load(tmp_path) == setting
    half = calibrate(records, Objective(max_f1_drop=0.15), temperatures_fitted=True).evidence
    assert half.samples + half.samples_for_choosing == 3_000 and half.samples_for_choosing > 0
    with pytest.raises(ValueError, match="cannot be seen without labels"):
        calibrate(records.without_labels(), Objective(max_f1_drop=0.15))
    with pytest.raises(ValueError, match="max_f1_drop is a difference of F1"):
        Objective(max_f1_drop=1.0)


def test_exit_zero_is_asked_where_it_helps_and_costs_nothing_where_it_does_not() -> None:
    records, fall = make_population(3_000), 0.15
    alone = certify_f1(records, fall, 0.95)
    spoilt = certify_f1(with_layer_zero(records, helps=False), fall, 0.9)  # half of the level is that of 0.95
    assert spoilt.found.rule == alone.found.rule and spoilt.found.flops_speedup == alone.found.flops_speedup > 1
    helped = certify_f1(with_layer_zero(records, helps=True), fall, 0.9)
    assert helped.found.rule.layers == (0, 1, 2) and helped.p_value <= 0.05
    assert helped.found.flops_speedup > 1.2 * certify_f1(records, fall, 0.9).found.flops_speedup
    setting = calibrate(with_layer_zero(records, helps=True), Objective(max_f1_drop=fall))
    assert "without layer 0 and with it, each at half of the level" in setting.evidence.method


def test_classes_with_few_samples_are_refused_by_name() -> None:
    labels = torch.tensor([0] * 200 + [1] * 30)
    with pytest.raises(ValueError, match="class 'b' has 30 samples, and 116 are needed of each class, or a max"):
        check_f1_samples(labels, 2, 0.05, 0.95, ["a", "b"])
    with pytest.raises(ValueError, match="class 2 has 0 samples, and 116 are needed of each class to show"):
        check_f1_samples(labels, 3, 0.05, 0.95)
    with pytest.raises(ValueError, match="max_f1_drop must lie between 0 and 1"):
        check_f1_samples(labels, 2, 0.0, 0.95)
    check_f1_samples(labels, 2, 0.18, 0.95)
    check_f1_samples(torch.tensor([0, 1] * 116), 2, 0.05, 0.95)
    shared = r"143 are needed of each class, or .*by at most 0.05 \(rules with layer 0 and without it share the level\)"
    with pytest.raises(ValueError, match=shared):
        check_f1_samples(torch.tensor([0, 1] * 142), 2, 0.05, 0.95, sequences=2)
    check_f1_samples(torch.tensor([0, 1] * 143), 2, 0.05, 0.95, sequences=2)

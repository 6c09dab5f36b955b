"""The guarantee on draws from a population whose truth is known, its refusals, and the saved setting."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from fastbert_hf.calibration import (
    CalibratedSetting,
    ExitRecords,
    ExitRule,
    Objective,
    calibrate,
    certify,
    certify_one_speed,
    certify_searched,
    check_samples,
    choose,
    figures_of,
    guarantee,
    pareto_front,
    rules_of,
    simulate,
    split_rows,
)
from fastbert_hf.calibration.guarantee import FIXED_SPEEDS, enough_samples, fixed_sequence, p_values
from fastbert_hf.calibration.intervals import ratio_interval, share_interval, share_over_time
from fastbert_hf.exits.criteria import CRITERIA, criteria_for, default_criterion
from fastbert_hf.flops import ModelShape

DRAWS = 500


def make_population(size: int, heads: int = 3, seed: int = 0) -> ExitRecords:
    """Samples of two classes, some of them hard; the deeper the head, the more of them it gets right."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(2, (size,), generator=generator)
    logits = torch.randn(size, heads, 2, generator=generator)
    ease = torch.linspace(2, 6, heads) - 3 * torch.rand(size, 1, generator=generator)
    logits[torch.arange(size), :, classes] += ease
    lengths = torch.randint(3, 60, (size,), generator=generator)
    return ExitRecords(logits, classes, lengths, ModelShape(256, 1024, heads, 16, 2), "0" * 64)


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


def make_multi_label_population(size: int, heads: int = 3) -> ExitRecords:
    """The same with three classes that a sample has or has not, each on its own."""
    generator = torch.Generator().manual_seed(0)
    has = torch.randint(2, (size, 1, 3), generator=generator) * 2.0 - 1
    ease = torch.linspace(2, 6, heads)[:, None] - 3 * torch.rand(size, 1, 1, generator=generator)
    logits = torch.randn(size, heads, 3, generator=generator) + has * ease
    lengths = torch.randint(3, 60, (size,), generator=generator)
    return ExitRecords(logits, None, lengths, ModelShape(256, 1024, heads, 16, 3), multi_label=True)


def make_population_with_errors(size: int) -> ExitRecords:
    """Of which full depth gets one in ten wrong."""
    records = make_population(size)
    wrong = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.1
    return replace(records, labels=records.labels ^ wrong.long())


POPULATIONS = {
    "labels": make_population_with_errors,
    "no labels": lambda size: make_population(size).without_labels(),
    "multi-label": make_multi_label_population,
}


def one_speed(population: ExitRecords, speed: float) -> ExitRule:
    """The same Speed at both student classifiers."""
    return ExitRule.one_speed((1, 2), speed, default_criterion(population.problem_type))


def draws(population: ExitRecords, size: int, count: int = DRAWS):
    """Rows of the population, drawn at random."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        yield torch.randint(len(population), (size,), generator=generator)


def losses_of(population: ExitRecords, rule: ExitRule) -> np.ndarray:
    """Which samples are right at full depth and wrong at the rule's exit; without labels, other at it."""
    if population.labels is None:
        answers, full_depth = simulate(population, rule).predictions, population.logits[:, -1]
        if population.multi_label:
            return (answers != (full_depth > 0).numpy()).any(axis=1)
        return answers != full_depth.argmax(dim=-1).numpy()
    wrong = simulate(population, rule).predictions != population.labels.numpy()
    full_depth = population.logits[:, -1].argmax(dim=-1) == population.labels
    return full_depth.numpy() & wrong


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
    records = make_population(600)
    choosing, testing = split_rows(600, seed=5)
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
    assert before.samples == 200 == len(before.tested_rows.unique())
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


def test_too_few_samples_are_refused_with_the_number_that_is_enough() -> None:
    five = make_population(5)
    with pytest.raises(ValueError, match="5 samples cannot show .* 299 samples are enough"):
        calibrate(five, Objective(max_drop=0.01), search="one_speed")
    with pytest.raises(ValueError, match=r"598 samples \(299 to test with"):
        calibrate(five, Objective(max_drop=0.01))
    with pytest.raises(ValueError, match="5 samples are too few"):
        calibrate(five, Objective(min_speedup=1.5))
    with pytest.raises(ValueError, match="598 samples"):
        calibrate(make_population(597), Objective(max_drop=0.01))
    certify_searched(make_population(598), 0.01)
    certify_one_speed(make_population(299), 0.01)


def test_without_labels_the_promise_says_so(tmp_path) -> None:
    few = make_population(12)
    for objective, search, enough in (
        (Objective(max_disagreement=0.01), "searched", r"598 samples \(299 to test with"),
        (Objective(max_disagreement=0.01), "one_speed", "299 samples are enough if none of theirs differs"),
    ):
        with pytest.raises(ValueError, match=f"12 samples cannot show .* answers differ from full depth's.*{enough}"):
            calibrate(few, objective, search=search)
    with pytest.raises(ValueError, match="max_disagreement must lie between 0 and 1.*no answer at all differs"):
        calibrate(few, Objective(max_disagreement=0.0))
    with pytest.raises(ValueError, match="cannot be seen without labels; use max_disagreement"):
        calibrate(make_population(400).without_labels(), Objective(max_drop=0.1))
    with pytest.raises(ValueError, match="exactly one of max_drop, max_disagreement"):
        Objective(max_drop=0.1, max_disagreement=0.1)


def test_labels_are_not_looked_at_for_answers_of_full_depth() -> None:
    records, objective = make_population(500), Objective(max_disagreement=0.05)
    found = calibrate(records, objective)
    one_class = replace(records, labels=torch.zeros_like(records.labels))
    assert found == calibrate(one_class, objective) == calibrate(records.without_labels(), objective)
    figures = found.figures
    assert figures.accuracy is figures.full_depth_accuracy is figures.drop is figures.accuracy_interval is None
    assert "at most 0.05 of new samples from the same distribution get another answer" in found.evidence.guarantee
    assert found.evidence.p_value <= 0.05 and figures.flops_speedup > 1


def test_figures_count_answers_by_layer_and_class() -> None:
    for kind in ("labels", "multi-label"):
        records = POPULATIONS[kind](400)
        rule = ExitRule((1, 2), (0.6, 0.7), default_criterion(records.problem_type))
        figures, result = figures_of(records, rule, 0.9), simulate(records, rule)
        differing = losses_of(records.without_labels(), rule)
        assert figures.disagreement == differing.mean() > 0
        assert figures.disagreement_interval == share_interval(int(differing.sum()), 400, 0.9)
        assert figures.exit_counts == tuple(int((result.exit_layers == layer).sum()) for layer in (1, 2, 3))
        full_depth = records.predictions[:, -1].tolist()
        counts, losses = [0] * records.shape.num_labels, [0] * records.shape.num_labels
        for full, given in zip(full_depth, result.predictions.tolist(), strict=True):
            for number in range(len(counts)):
                had, has = (full[number], given[number]) if kind == "multi-label" else (full == number, given == number)
                counts[number] += had
                losses[number] += had and not has
        assert (figures.class_counts, figures.class_losses) == (tuple(counts), tuple(losses))


def test_a_score_has_no_label_that_could_differ() -> None:
    records = ExitRecords(torch.randn(400, 3, 1), None, torch.full((400,), 9), ModelShape(256, 1024, 3, 16, 1))
    with pytest.raises(ValueError, match="one output, a score, and no label.*say how far a score may be from it"):
        calibrate(records, Objective(max_disagreement=0.05))


def test_multi_label_samples_leave_by_their_entropy_alone() -> None:
    records = make_multi_label_population(400)
    setting = calibrate(records, Objective(max_disagreement=0.1))
    assert setting.rule.criterion == "binary_entropy" and setting.figures.flops_speedup > 1
    with pytest.raises(ValueError, match="unknown criterion 'confidence'; choose one of auto, binary_entropy"):
        calibrate(records, Objective(max_disagreement=0.1), criterion="confidence")
    with pytest.raises(ValueError, match="take no labels"):
        replace(records, labels=torch.zeros(400, dtype=torch.int64))


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


def test_one_class_and_numbers_out_of_range_are_refused() -> None:
    records = make_population(400)
    one_class = replace(records, labels=torch.ones_like(records.labels))
    for wish in (Objective(max_drop=0.05), Objective(min_speedup=1.2)):
        with pytest.raises(ValueError, match="all 400 samples have the class 1"):
            calibrate(one_class, wish)
    with pytest.raises(ValueError, match="cannot be shown with any number of samples"):
        calibrate(records, Objective(max_drop=0.0))
    for confidence in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
            calibrate(records, Objective(max_drop=0.05), confidence=confidence)
    with pytest.raises(ValueError, match="tested_share"):
        certify_searched(records, 0.05, tested_share=1.0)


@pytest.mark.parametrize(
    ("wish", "search"),
    [
        (Objective(max_disagreement=0.05), "searched"),
        (Objective(max_drop=0.05), "searched"),
        (Objective(max_drop=0.05), "one_speed"),
        (Objective(min_speedup=1.5), "searched"),
        (Objective(min_speedup=1.5), "one_speed"),
    ],
)
def test_setting_says_what_was_found_and_survives_its_file(wish, search, tmp_path) -> None:
    records = make_population(800, heads=4)
    setting = calibrate(records, wish, search=search)
    guaranteed = wish.max_risk is not None
    assert (setting.evidence.guarantee is not None) == (setting.evidence.p_value is not None) == guaranteed
    assert setting.evidence.samples_for_choosing == (400 if guaranteed and search == "searched" else 0)
    assert setting.evidence.samples + setting.evidence.samples_for_choosing == 800
    figures = setting.figures
    assert figures.disagreement_interval[0] < figures.disagreement < figures.disagreement_interval[1]
    assert sum(figures.exit_counts) == setting.evidence.samples
    assert (figures.accuracy is None) == (wish.max_disagreement is not None)
    assert figures.flops_speedup_interval[0] < figures.flops_speedup < figures.flops_speedup_interval[1]
    if wish.max_disagreement is None:
        assert figures.accuracy_interval[0] < figures.accuracy < figures.accuracy_interval[1]
        assert figures.drop == pytest.approx(figures.full_depth_accuracy - figures.accuracy)
    if not guaranteed:
        assert figures.flops_speedup >= 1.5
        assert figures == figures_of(records, setting.rule, 0.95)
    speed = setting.speed_for_speedup(1.4)
    assert simulate(records, ExitRule.one_speed((1, 2, 3), speed)).flops_speedup == pytest.approx(1.4, rel=0.02)

    path = setting.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["fastbert_calibration.json"]
    loaded = CalibratedSetting.load(tmp_path)
    assert loaded == setting
    content = json.loads(path.read_text())
    for broken in (content | {"format": 8}, content | {"rule": {"layers": [2, 1]}}, [], {"format": 1}):
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=r"fastbert_calibration.json is not a calibration that can be read"):
            CalibratedSetting.load(tmp_path)
    path.unlink()
    assert CalibratedSetting.load(tmp_path) is None


@pytest.mark.parametrize(("count", "samples"), [(0, 9), (9, 9), (3, 50), (499, 500)])
def test_share_interval_is_clopper_pearson(count, samples) -> None:
    expected = stats.binomtest(count, samples).proportion_ci(0.9, method="exact")
    assert share_interval(count, samples, 0.9) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_ratio_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(DRAWS):
        above = generator.integers(10, 60, 200).astype(float)
        below = above * generator.choice([0.2, 0.5, 1.0], 200)
        low, high = ratio_interval(above, below, 0.9)
        covered += low < 3 / 1.7 < high
    assert stats.binom.ppf(0.001, DRAWS, 0.88) <= covered <= stats.binom.ppf(0.999, DRAWS, 0.92)


def test_share_over_time_is_where_the_mixture_is_below_its_bound() -> None:
    for count, samples, confidence in ((0, 40, 0.95), (3, 40, 0.95), (40, 40, 0.9), (1, 1, 0.5), (700, 5_000, 0.99)):
        low, high = share_over_time(count, samples, confidence)
        assert 0 <= low <= count / samples <= high <= 1
        for share in {low, high} - {0.0, 1.0}:
            known = stats.binom.logpmf(count, samples, share)
            mixed = stats.betabinom.logpmf(count, samples, 0.5, 0.5)
            assert mixed - known == pytest.approx(-math.log(1 - confidence), abs=1e-6)
    assert share_over_time(0, 0, 0.95) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.004, 0.05, 0.5])
def test_share_over_time_holds_at_all_times_at_once(share) -> None:
    """What is looked at after every sample misses the truth once in ten runs at most; Clopper-Pearson does not."""
    level, runs, samples = 0.1, DRAWS, 2_000
    seen = np.random.default_rng(5).random((runs, samples)) < share
    counts, sizes = seen.cumsum(axis=1), np.arange(1, samples + 1)
    # The truth is inside where the mixture is below its bound.
    missed = stats.betabinom.logpmf(counts, sizes, 0.5, 0.5) - stats.binom.logpmf(counts, sizes, share)
    ever = (missed >= -math.log(level)).any(axis=1).sum()
    tails = stats.binom.cdf(counts, sizes, share), stats.binom.sf(counts - 1, sizes, share)
    ever_at_one_time = (np.minimum(*tails) < level / 2).any(axis=1).sum()
    print(f"share {share}: {ever} of {runs} runs ever miss it, {ever_at_one_time} by Clopper-Pearson")
    assert ever <= most_violations(level) < ever_at_one_time
    last = [share_over_time(int(count), samples, 1 - level) for count in counts[:40, -1]]
    inside = [low <= share <= high for low, high in last]
    assert inside == (missed[:40, -1] < -math.log(level)).tolist()

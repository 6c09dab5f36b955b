"""Calibration of models with one output: a score that moved too far is another answer."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import fastbert_kernels
from fastbert_hf import Audit
from fastbert_hf.calibration import (
    CalibratedSetting,
    ExitRecords,
    ExitRule,
    Objective,
    calibrate,
    calibrate_to_latency,
    certify_one_speed,
    certify_searched,
    figures_of,
    guarantee,
    pareto_front,
    record_exits,
    simulate,
)
from fastbert_hf.calibration.one_speed import FIXED_MULTIPLES
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.flops import ModelShape
from helpers.clocks import FakeClock
from helpers.models import padded_batch, spread_model
from helpers.populations import DISTANCE, make_score_population
from helpers.training import make_data, make_tokenizer


def first_exits(scores: np.ndarray, rule: ExitRule) -> np.ndarray:
    """Index of the head at which each sample leaves, from the definition; `scores` are float32 [n, E]."""
    exits = np.full(len(scores), scores.shape[1] - 1)
    left, before = np.ones(len(scores), dtype=bool), None
    for layer, speed in zip(rule.layers, rule.speeds, strict=True):
        now = scores[:, layer - 1]
        if before is not None:
            leaves = left & (np.abs(now - before) < np.float32(speed))
            exits[leaves] = layer - 1
            left &= ~leaves
        before = now
    return exits


def moved(population: ExitRecords, rule: ExitRule) -> np.ndarray:
    """Tell which samples leave with a score too far from the last one, bool [n]."""
    scores = population.logits[..., 0].numpy()
    given = scores[np.arange(len(scores)), first_exits(scores, rule)]
    return np.abs(given - scores[:, -1]) > np.float32(DISTANCE)


def most_violations(level: float, count: int) -> int:
    return int(stats.binom.ppf(0.999, count, level))


def test_one_speed_keeps_the_promise_and_the_best_on_the_samples_does_not() -> None:
    population, level, share, count = make_score_population(3_000), 0.1, 0.05, 300
    rules = [ExitRule.one_speed((1, 2, 3), float(speed), "stability") for speed in DISTANCE * FIXED_MULTIPLES]
    losses = {rule.speeds[0]: moved(population, rule) for rule in rules}
    truth = {speed: lost.mean() for speed, lost in losses.items()}
    near = [speed for speed in truth if share / 4 < truth[speed] < 2 * share]
    generator = torch.Generator().manual_seed(7)
    violations = naive_violations = faster = 0
    for _ in range(count):
        rows = torch.randint(len(population), (400,), generator=generator)
        found = certify_one_speed(population.rows(rows), share, 1 - level).found
        violations += bool(found.rule.layers) and truth[found.rule.speeds[0]] > share
        faster += found.flops_speedup > 1.1
        naive = [speed for speed in near if losses[speed][rows.numpy()].mean() <= share]
        naive_violations += truth[max(naive)] > share
    print(f"{violations} of {count} draws break the promise, the best on the samples {naive_violations}")
    assert violations <= most_violations(level, count) < naive_violations
    assert faster > count / 2


@pytest.mark.proof
def test_searched_rules_keep_the_promise(monkeypatch) -> None:
    coarse = lambda *arguments, **options: pareto_front(*arguments, **options, beam_width=24, speeds_per_layer=5)  # noqa: E731
    monkeypatch.setattr(guarantee, "pareto_front", coarse)
    population, level, share, count = make_score_population(3_000), 0.2, 0.1, 40
    generator = torch.Generator().manual_seed(7)
    violations = faster = 0
    for number in range(count):
        rows = torch.randint(len(population), (200,), generator=generator)
        found = certify_searched(population.rows(rows), share, 1 - level, seed=number).found
        violations += moved(population, found.rule).mean() > share
        faster += found.flops_speedup > 1.1
    assert violations <= most_violations(level, count)
    assert faster > count / 2


def test_simulation_is_the_definition() -> None:
    records = make_score_population(200)
    for rule in (
        ExitRule((1, 2, 3), (0.1, 0.2, 0.3), "stability"),
        ExitRule((1, 3), (0.5, 0.4), "stability"),
        ExitRule((1, 2, 3), (0.0, 0.0, 0.4), "stability"),  # the second is asked for the third
        ExitRule((2,), (9.0,), "stability"),  # nothing to compare with
        ExitRule((), (), "stability"),
    ):
        result = simulate(records, rule)
        exits = first_exits(records.logits[..., 0].numpy(), rule)
        assert result.exit_layers.tolist() == (exits + 1).tolist()
        assert result.predictions.tolist() == records.logits[np.arange(200), exits, 0].tolist()
        assert 1 - result.accuracy == pytest.approx(moved(records, rule).mean(), abs=1e-12)
    assert len({*simulate(records, ExitRule((1, 2, 3), (0.1, 0.2, 0.3), "stability")).exit_layers}) == 3


@pytest.mark.parametrize("patched", [False, True])
def test_a_head_with_the_speed_0_is_asked_for_the_next_one(patched) -> None:
    """As the records say, by the model in plain PyTorch and by the fast path."""
    model = spread_model(labels=1, problem_type="regression")
    batch = padded_batch([9, 3, 12, 7, 1, 5, 8, 11])
    fast = fastbert_kernels.patch(copy.deepcopy(model), backend="cpu") if patched else model
    with torch.inference_mode():
        every = model(**batch, output_all_exits=True).all_logits
        changes = (every[:, 2] - every[:, 1]).abs().flatten().sort().values
        between = (
            changes[3] + changes[4]
        ).item() / 2  # so that no sample's change is that of the rule, but for rounding
        rule = ExitRule((2, 3), (0.0, between), "stability")
        answers = fast(**batch, speed=rule)
    want = first_exits(every[..., 0].numpy(), rule)
    assert {2, 3} == {*want.tolist()} and answers.exit_layer.tolist() == (want + 1).tolist()
    torch.testing.assert_close(answers.logits, every[torch.arange(8), torch.from_numpy(want)], rtol=1e-4, atol=1e-4)


def test_pareto_front_is_that_of_all_speeds_next_to_each_other() -> None:
    records = make_score_population(7, seed=3)
    scores = records.logits[..., 0].numpy()
    changes = np.abs(np.diff(scores, axis=1))  # behind layers 2, 3, 4
    best: dict[float, float] = {}
    for second, third in itertools.product(*([0.0, *(changes[:, head] * 1.0001), 99.0] for head in (0, 1))):
        needed = {1: second > 0, 2: second > 0 or third > 0, 3: third > 0}
        layers = tuple(layer for layer, asked in needed.items() if asked)
        speeds = tuple({1: 0.0, 2: second, 3: third}[layer] for layer in layers)
        result = simulate(records, ExitRule(layers, speeds, "stability"))
        best[result.flops_speedup] = max(result.accuracy, best.get(result.flops_speedup, 0))
    front = pareto_front(records, "stability", quality="kept")
    assert front.exact and len(front.rules) > 3
    for found in front.rules:
        result = simulate(records, found.rule)
        assert (found.accuracy, found.flops_speedup) == (result.accuracy, result.flops_speedup)
    wanted = {
        (speedup, kept)
        for speedup, kept in best.items()
        if all(
            kept > other or speedup >= faster for faster, other in best.items() if (faster, other) != (speedup, kept)
        )
    }
    assert {(found.flops_speedup, found.accuracy) for found in front.rules} == wanted


def test_what_is_not_a_number_has_moved() -> None:
    records = make_score_population(4)
    logits = records.logits.clone()
    logits[0, -1] = logits[1, 1] = torch.nan
    logits[2, -1], logits[3] = torch.inf, 1.0
    records = replace(records, logits=logits)
    assert records.right[0].tolist() == records.right[2].tolist() == [False, False, False, True]
    assert not records.right[1, 1] and records.right[3].all()
    figures = figures_of(records, ExitRule((1, 2, 3), (0.0, 0.0, 99.0), "stability"), 0.9)
    assert figures.disagreement >= 0.5 and figures.largest_score_change < 99


@pytest.mark.parametrize("search", ["searched", "one_speed"])
def test_the_setting_says_what_is_promised_and_survives_its_file(search, tmp_path) -> None:
    records = make_score_population(600)
    wish = Objective(max_disagreement=0.05, max_score_change=DISTANCE)
    setting = calibrate(replace(records, max_score_change=None), wish, search=search)
    assert setting.rule.criterion == "stability" and setting.figures.flops_speedup > 1.1
    assert setting.evidence.guarantee == (
        "With 0.95 confidence, at most 0.05 of new samples from the same distribution have a score at their exit that "
        "is more than 0.3 from full depth's."
    )
    figures = setting.figures
    assert figures.class_counts is figures.class_losses is figures.accuracy is None
    assert 0 < figures.disagreement < 0.05 and 0 < figures.mean_score_change < DISTANCE < figures.largest_score_change
    setting.save(tmp_path)
    assert CalibratedSetting.load(tmp_path) == setting
    speed = setting.speed_for_speedup(1.2)
    rule = ExitRule.one_speed(records.student_layers, speed, "stability")
    assert simulate(records, rule).flops_speedup == pytest.approx(1.2, rel=0.03)
    fast = calibrate(records, Objective(min_speedup=1.2, max_score_change=DISTANCE), search=search)
    assert fast.evidence.guarantee is None and fast.figures.flops_speedup >= 1.2


def test_a_time_is_a_target_too() -> None:
    records = make_score_population(300)
    clock = FakeClock(records, overhead=0.0, flops=1.0).clock()
    setting = calibrate_to_latency(records, 0.8, clock).setting
    assert setting.objective == Objective(max_latency_ms=0.8, max_score_change=DISTANCE)
    assert setting.latency.ms_per_text <= 0.8
    with pytest.raises(ValueError, match="say how far a score may be from it"):
        calibrate_to_latency(replace(records, max_score_change=None), 0.8, clock)


def test_complaints() -> None:
    records = replace(make_score_population(12), max_score_change=None)
    for act, message in (
        (
            lambda: calibrate(records, Objective(max_disagreement=0.1)),
            "no label that could differ.*max_score_change=0.1",
        ),
        (lambda: Objective(max_score_change=0.1), "say how many may be, too: max_disagreement=0.01"),
        (lambda: Objective(max_score_change=0.1, max_drop=0.1), "max_drop is about labels"),
        (lambda: Objective(max_score_change=-1.0, max_disagreement=0.1), "a distance between scores, above 0; got -1"),
        (lambda: records.with_max_score_change(float("nan")), "above 0; got nan"),
        (
            lambda: calibrate(records, Objective(max_disagreement=0.01, max_score_change=0.1)),
            r"12 samples cannot show .* 374 samples \(299 to test with, the others to choose the setting\) are enough",
        ),
        (lambda: replace(records, labels=torch.zeros(12, dtype=torch.int64)), "one output take no labels"),
        (
            lambda: calibrate(make_score_population(60), Objective(max_disagreement=0.1), criterion="entropy"),
            "unknown",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            act()
    classes = ExitRecords(torch.randn(9, 2, 3), None, torch.full((9,), 9), ModelShape(256, 1024, 2, 16, 3))
    with pytest.raises(
        ValueError, match="for models with one output, a score, and this one has 3 classes; leave it out"
    ):
        calibrate(classes, Objective(max_disagreement=0.1, max_score_change=0.1))


def test_from_a_model_to_its_setting_and_audit() -> None:
    model, data = spread_model(labels=1, problem_type="regression"), make_data(60)
    records = record_exits(model, TokenisedDataset(data, make_tokenizer(), 16))
    assert records.labels is None and records.problem_type == "regression" and records.max_score_change is None
    with pytest.raises(ValueError, match="audit has to know from where on it is another answer"):
        Audit.of(model, 0.5, speed=1.0)
    wish = Objective(max_disagreement=0.4, max_score_change=1.5)
    model.calibrated_setting = calibrate(records, wish, search="one_speed")
    audit = Audit.of(model, 0.5)
    full_depth = torch.tensor([[0.0], [2.0], [1.0], [torch.nan]])
    audit.add_answers(torch.tensor([[1.5], [0.4], [-1.0], [0.0]]), full_depth)
    report = audit.report()
    assert (report.audited, report.disagreements, report.promised, report.max_score_change) == (4, 3, 0.4, 1.5)
    assert Audit.of(model, 0.5, speed=1.0, max_score_change=9.0).max_score_change == 9.0

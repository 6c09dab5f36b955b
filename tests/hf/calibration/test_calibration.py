"""Simulation, curve and search, against the definitions in float64 and brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastbert_hf.calibration import (
    ExitRecords,
    ExitRule,
    Objective,
    best_rule,
    choose,
    compare_criteria,
    pareto_front,
    rules_of,
    simulate,
    speed_curve,
)
from fastbert_hf.calibration.curve import candidate_speeds
from fastbert_hf.calibration.simulation import exit_heads, uncertainties
from fastbert_hf.exits.criteria import CRITERIA, criteria_for
from fastbert_hf.flops import ModelShape
from fastbert_kernels import reference


def make_records(size: int, heads: int = 4, labels: int = 3, seed: int = 0, shape: ModelShape | None = None):
    """Samples of which some are hard; deeper heads are right more often, and all are surer when they are right."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(labels, (size,), generator=generator)
    logits = torch.randn(size, heads, labels, generator=generator) * 1.5
    ease = torch.linspace(1, 4, heads) - 3 * torch.rand(size, 1, generator=generator)
    logits[torch.arange(size), :, classes] += ease
    lengths = torch.randint(3, 60, (size,), generator=generator)
    return ExitRecords(logits, classes, lengths, shape or ModelShape(32, 64, heads, 16, labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(9, 4, 3).double()}, "logits .* must be torch.float32"),
        ({"logits": torch.zeros(9, 3, 3)}, r"must be torch.float32 \[9, 4, 3\], got torch.float32 \[9, 3, 3\]"),
        ({"lengths": torch.zeros(9, dtype=torch.int64)}, "at least 1"),
        ({"labels": torch.full((9,), -1)}, "does not know"),
    ],
)
def test_bad_records_are_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make_records(9), **change)


@pytest.mark.parametrize(
    ("criterion", "parameter"),
    [
        *((name, k) for name, one in criteria_for(None).items() for k in one.candidates(7)),
        ("top_k_entropy", 99),
        ("patience", 2),
        ("patience", 3),
    ],
)
def test_criteria_are_those_of_the_kernels(criterion, parameter) -> None:
    records = make_records(63, heads=5, labels=7)
    records.logits[0, 0, 0], records.logits[1, 1, 2], records.logits[2, :, 0] = np.nan, np.inf, -np.inf
    records.logits[3] = np.nan
    records.logits[30:40, :, 2] += 4  # equal predictions in a row
    layers = (1, 2, 4)
    speeds = (0.3, 0.5, 0.4) if CRITERIA[criterion].compares_speed else ()
    expected = np.full(63, 4)
    left = torch.ones(63, dtype=torch.bool)
    history = None
    for layer, speed in zip(layers, speeds or (0.0,) * 3, strict=True):
        _, history, keep = reference.decide(
            records.logits[:, layer - 1], torch.full((63,), speed), history, criterion, parameter
        )
        expected[(left & ~keep).numpy()] = layer - 1
        left &= keep
    found = exit_heads(records, ExitRule(layers, speeds, criterion, parameter))
    assert found.tolist() == expected.tolist()
    assert len(set(expected)) > 1


def test_heads_that_are_not_asked_cost_nothing() -> None:
    records = make_records(20)
    assert simulate(records, ExitRule(())).flops_speedup == 1.0
    assert simulate(records, ExitRule((1,), (0.0,))).flops_speedup < 1.0
    with pytest.raises(ValueError, match=r"layers \[4\] have no student classifier"):
        simulate(records, ExitRule((1, 4), (0.5, 0.5)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 1), (0.1, 0.1)), "must ascend"),
        (((1, 2), (0.1,)), "takes 2 Speeds"),
        (((1,), (float("nan"),)), r"in \[0, 1\]"),
        (((1,), (0.5,), "patience", 1), "takes 0 Speeds"),
        (((1,), (0.5,), "sureness"), "choose one of entropy"),
        (
            ((1,), (0.5,), "top_k_entropy", 1),
            "number of most likely classes and must be at least 2 and at most .*, got 1",
        ),
        (((1,), (0.5,), "top_k_entropy"), "at least 2 and at most .*, got 0"),
        (((1,), (), "patience"), "number of equal predictions in a row and must be at least 1 and at most .*, got 0"),
        (((1,), (0.5,), "confidence", 3), "'confidence' has no parameter, so it must be 0, got 3"),
        (((1,), (), "patience", 2.5), "must be an integer, got 2.5"),
    ],
)
def test_bad_rules_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        ExitRule(*arguments)


@pytest.mark.parametrize("layers", [None, (2,), (1, 3)])
def test_curve_is_the_simulation_at_every_speed(layers) -> None:
    records = make_records(40)
    records.logits[5, 1] = np.nan
    curve = speed_curve(records, layers)
    assert len(curve.speeds) > 20
    for speed, accuracy, speedup in zip(curve.speeds, curve.accuracy, curve.flops_speedup, strict=True):
        result = simulate(records, ExitRule.one_speed(layers or (1, 2, 3), speed))
        assert (accuracy, speedup) == pytest.approx((result.accuracy, result.flops_speedup), rel=1e-12)
    assert list(curve.flops_speedup) == sorted(curve.flops_speedup)


def test_candidates_tell_all_uncertainties_apart() -> None:
    near = np.float32(0.25)
    values = np.array([0.1, near, np.nextafter(near, np.float32(1)), 0.9, np.nan, 0.1, 0.0], dtype=np.float32)
    speeds = candidate_speeds(values, 100)
    leaving = [int((values < np.float32(speed)).sum()) for speed in speeds]
    assert leaving == [0, 1, 3, 4, 5, 6]
    assert candidate_speeds(np.linspace(0, 1, 1000, dtype=np.float32), 10).tolist()[0] == 0.0
    assert len(candidate_speeds(np.linspace(0, 1, 1000, dtype=np.float32), 10)) == 10


def test_linear_knob_hits_the_speedup_and_is_monotone() -> None:
    records = make_records(3000, heads=6)
    curve = speed_curve(records)
    wanted = np.linspace(curve.flops_speedup[0], curve.flops_speedup[-1], 40)
    speeds = [curve.speed_for_speedup(value) for value in wanted]
    assert all(before <= after for before, after in itertools.pairwise(speeds)) and speeds[0] < speeds[-1]
    for value, speed in zip(wanted, speeds, strict=True):
        found = simulate(records, ExitRule.one_speed(records.student_layers, speed)).flops_speedup
        assert found == pytest.approx(value, rel=0.01)
    for impossible in (0.1, 100.0, float("nan")):
        with pytest.raises(ValueError, match="no Speed gives a FLOPs speed-up"):
            curve.speed_for_speedup(impossible)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("quality", ["accuracy", "kept"])
def test_pareto_front_is_that_of_brute_force(seed, quality) -> None:
    shape = ModelShape(16, 32, 5, 8, 3, exit_layers=(1, 2, 4, 5))
    records = make_records(7, heads=4, seed=seed, shape=shape)
    everything = []
    u = uncertainties(records, "entropy")
    for speeds in itertools.product(*([None, *candidate_speeds(u[:, head], 99)] for head in range(3))):
        asked = [(layer, speed) for layer, speed in zip((1, 2, 4), speeds, strict=True) if speed is not None]
        rule = ExitRule(tuple(layer for layer, _ in asked), tuple(speed for _, speed in asked))
        result = simulate(records, rule)
        right = result.predictions == records.labels.numpy()
        spoilt = records.right[:, -1] & ~right
        score = right.mean() if quality == "accuracy" else 1 - spoilt.mean()
        everything.append((round(float(score), 9), round(result.flops_speedup, 9)))
    best = {a for a in everything if not any(b[0] >= a[0] and b[1] >= a[1] and b != a for b in everything)}
    front = pareto_front(records, quality=quality, beam_width=10**6)
    assert front.exact
    found = []
    for one in front.rules:
        result = simulate(records, one.rule)
        assert (one.accuracy, one.flops_speedup) == (result.accuracy, result.flops_speedup)
        spoilt = records.right[:, -1] & (result.predictions != records.labels.numpy())
        score = one.accuracy if quality == "accuracy" else 1 - float(spoilt.mean())
        found.append((round(score, 9), round(one.flops_speedup, 9)))
    assert set(found) == best and len(found) == len(best)
    assert found == sorted(found, key=lambda pair: pair[1])


def test_front_of_a_narrow_beam_beats_single_speeds() -> None:
    records = make_records(400, heads=8)
    front = pareto_front(records)
    assert not front.exact
    curve = speed_curve(records)
    for target in np.linspace(1.1, curve.flops_speedup[-1], 12):
        objective = Objective(min_speedup=target)
        single = choose(rules_of(records), objective)
        assert choose(front.rules, objective).accuracy >= single.accuracy


@pytest.mark.parametrize("wish", [Objective(max_drop=0.02), Objective(min_speedup=1.6)])
def test_leaving_out_heads_is_never_worse(wish) -> None:
    records = make_records(300, heads=6)
    records.logits[:, 1] = 0.0  # this head is never sure
    single, best = choose(rules_of(records), wish), best_rule(records, wish)
    assert 2 not in best.rule.layers
    result = simulate(records, best.rule)
    assert (best.accuracy, best.flops_speedup) == pytest.approx((result.accuracy, result.flops_speedup))
    if wish.max_drop is not None:
        assert best.flops_speedup > single.flops_speedup and best.drop <= wish.max_drop + 1e-12
    else:
        assert best.accuracy >= single.accuracy and best.flops_speedup >= 1.6


def test_criteria_are_compared_and_the_best_is_first() -> None:
    records = make_records(300, labels=60)
    objective = Objective(max_drop=0.02)
    ranking = compare_criteria(records, objective)
    assert {one.rule.criterion for one in ranking} == set(criteria_for(None))
    speedups = [one.flops_speedup for one in ranking]
    assert speedups == sorted(speedups, reverse=True)
    assert speedups[0] >= choose(rules_of(records, "patience", 1), objective).flops_speedup
    assert all(one.drop <= 0.02 + 1e-12 for one in ranking)


def test_compared_criteria_have_the_macro_f1_of_their_answers() -> None:
    records = make_records(200, labels=5)
    labels = records.labels.tolist()
    for found in compare_criteria(records, Objective(max_drop=0.05)):
        answers = simulate(records, found.rule).predictions.tolist()
        scores = []
        for name in set(labels) | set(answers):
            right = sum(label == answer == name for label, answer in zip(labels, answers, strict=True))
            scores.append(2 * right / (labels.count(name) + answers.count(name)))
        assert found.macro_f1 == pytest.approx(sum(scores) / len(scores))
    without = compare_criteria(records.without_labels(), Objective(max_drop=0.05))
    assert all(found.macro_f1 is None for found in without)


def test_wishes_out_of_reach_or_range_are_refused() -> None:
    records = make_records(50)
    with pytest.raises(ValueError, match="no rule has a FLOPs speed-up of 50 or more; the fastest has"):
        best_rule(records, Objective(min_speedup=50))
    with pytest.raises(ValueError, match="no rule has a FLOPs speed-up of 50"):
        compare_criteria(records, Objective(min_speedup=50))
    for wrong in (
        {},
        {"max_drop": 0.1, "min_speedup": 2},
        {"max_drop": 1.0},
        {"min_speedup": 0.0},
        {"max_latency_ms": 0.0},
    ):
        with pytest.raises(ValueError):
            Objective(**wrong)

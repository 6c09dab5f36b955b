"""Figures of an analysis, against plain Python, scipy and the model itself."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import fastbert_kernels
from fastbert_hf.analysis import (
    WallClock,
    accuracy_by_uncertainty,
    analyze,
    changes_at_speed,
    changes_by_layer,
    check_model,
    check_samples,
    cut_to_depth,
    easiest_and_hardest,
    exit_distribution,
    tradeoff,
    uncertainty_at_speed,
)
from fastbert_hf.analysis.uncertainty import BINS
from fastbert_hf.calibration import ExitRule, Objective, calibrate, record_exits, simulate
from fastbert_hf.calibration.simulation import uncertainties
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.flops import full_depth_flops, head_flops, layer_flops
from fastbert_hf.training import evaluate
from helpers.analysis import make_records, plain_rows
from helpers.families import make_batch
from helpers.families import make_model as make_family
from helpers.training import make_data, make_model, make_tokenizer

SPEEDS = (0.1, 0.3, 0.5, 0.8)

some_records = st.builds(
    make_records,
    size=st.integers(1, 60),
    layers=st.sampled_from([(1, 2), (2, 5, 6), (1, 2, 3, 4), tuple(range(1, 13))]),
    labels=st.integers(2, 5),
    seed=st.integers(0, 10**6),
)
some_speed = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


def interval_of(value: float, number: int) -> int:
    """The one of `number` equal intervals of [0, 1] that a float32 lies in."""
    return next((k for k in range(number - 1) if value < float(np.float32((k + 1) / number))), number - 1)


@settings(max_examples=25, deadline=None)
@given(some_records)
def test_accuracy_by_uncertainty_is_that_of_counting(records):
    last = len(records.exit_layers) - 1
    heads = accuracy_by_uncertainty(records, 0.9)
    assert [head.layer for head in heads] == [records.exit_layers[k] for k in sorted({0, last // 2, last})]
    assert [head.teacher for head in heads] == [head.layer == records.exit_layers[-1] for head in heads]
    for head in heads:
        column = records.exit_layers.index(head.layer)
        for number, interval in enumerate(head.intervals):
            inside = [
                bool(records.right[row, column])
                for row, value in enumerate(uncertainties(records, "entropy")[:, column].tolist())
                if interval_of(value, 10) == number
            ]
            assert (interval.low, interval.high) == (number / 10, (number + 1) / 10)
            assert (interval.samples, interval.right) == (len(inside), sum(inside))
            if not inside:
                assert interval.accuracy is None and interval.band is None
                continue
            exact = stats.binomtest(sum(inside), len(inside)).proportion_ci(0.9, method="exact")
            assert interval.accuracy == statistics.mean(inside)
            assert interval.band == pytest.approx((exact.low, exact.high))
        assert sum(interval.samples for interval in head.intervals) == len(records) and head.unknown == 0


@settings(max_examples=25, deadline=None)
@given(some_records, some_speed)
def test_uncertainty_per_layer_counts_those_that_arrive(records, speed):
    found = uncertainty_at_speed(records, speed)
    assert [layer.layer for layer in found.layers] == list(records.exit_layers)
    rows = plain_rows(records, speed)
    for head, layer in enumerate(found.layers):
        there = [
            value[head]
            for value, row in zip(uncertainties(records, "entropy").tolist(), rows, strict=True)
            if row[0] >= head
        ]
        assert layer.arriving == len(there)
        assert layer.counts == tuple(sum(interval_of(u, BINS) == k for u in there) for k in range(BINS))
        if there:
            assert layer.quartiles[1] == pytest.approx(statistics.median(there), abs=1e-6)
        else:
            assert layer.quartiles is None
    if speed == 0:
        assert {layer.arriving for layer in found.layers} == {len(records)}


@settings(max_examples=25, deadline=None)
@given(some_records, some_speed)
def test_exits_and_changes_are_those_of_counting(records, speed):
    rows = plain_rows(records, speed)
    layers = [layer for _, layer, *_ in rows]
    found = exit_distribution(records, speed)
    assert found.layers == records.exit_layers
    assert found.samples == tuple(layers.count(layer) for layer in records.exit_layers)
    assert found.mean == pytest.approx(statistics.mean(layers))
    assert found.median == statistics.median(layers)

    last = [row[-1].index(max(row[-1])) for row in records.logits.tolist()]
    changes = changes_at_speed(records, speed)
    for one in changes.leaving:
        here = [(row, end) for row, end in zip(rows, last, strict=True) if row[1] == one.layer]
        assert one.changes.wrong_then_right == sum(a != label and end == label for (_, _, _, a, label), end in here)
        assert one.changes.right_then_wrong == sum(a == label and end != label for (_, _, _, a, label), end in here)
    assert [one.layer for one in changes.leaving] == list(records.student_layers)
    for name, value in asdict(changes.total).items():
        assert value == sum(asdict(one.changes)[name] for one in changes.leaving)
    # What is gained less what is lost is the change of accuracy.
    gained = changes.total.right_then_wrong - changes.total.wrong_then_right
    drop = simulate(records, ExitRule.one_speed(records.student_layers, speed)).drop
    assert gained / len(records) == pytest.approx(-drop)


@settings(max_examples=15, deadline=None)
@given(some_records)
def test_changes_by_layer_are_those_of_counting(records):
    answers = [[row.index(max(row)) for row in sample] for sample in records.logits.tolist()]
    labels = records.labels.tolist()
    for head, one in enumerate(changes_by_layer(records)):
        assert one.layer == records.student_layers[head]
        pairs = [(sample[head] == label, sample[-1] == label) for sample, label in zip(answers, labels, strict=True)]
        assert one.changes.wrong_then_right == pairs.count((False, True))
        assert one.changes.right_then_wrong == pairs.count((True, False))


@settings(max_examples=25, deadline=None)
@given(some_records, some_speed, st.integers(1, 12))
def test_examples_are_the_ends_of_a_sorted_list(records, speed, number):
    rows = plain_rows(records, speed)
    easiest, hardest = easiest_and_hardest(records, ExitRule.one_speed(records.student_layers, speed), number)
    keys = sorted((layer, uncertainty) for _, layer, uncertainty, *_ in rows)
    assert [(one.exit_layer, one.uncertainty) for one in easiest] == keys[:number]
    assert [(one.exit_layer, one.uncertainty) for one in hardest] == keys[::-1][:number]
    for one in easiest + hardest:
        assert (one.exit_layer, one.uncertainty, one.prediction, one.label) == rows[one.row][1:]
    if 2 * number <= len(records):
        assert len({one.row for one in easiest + hardest}) == 2 * number


def test_uncertainties_that_are_not_known_are_counted_apart_and_hardest():
    records = make_records(50)
    records.logits[7, 0], records.logits[8] = math.nan, math.nan
    first, *_, last = accuracy_by_uncertainty(records, 0.95)
    assert (first.unknown, last.unknown) == (2, 1)
    assert sum(interval.samples for interval in first.intervals) == 48
    layer = uncertainty_at_speed(records, 0.5).layers[0]
    assert (layer.arriving, layer.unknown, sum(layer.counts)) == (50, 2, 48)
    _, hardest = easiest_and_hardest(records, ExitRule.one_speed(records.student_layers, 1.0), 1)
    assert (hardest[0].row, hardest[0].uncertainty) == (8, None)
    records.logits[:] = math.nan
    assert uncertainty_at_speed(records, 0.5).layers[0].quartiles is None


@settings(max_examples=15, deadline=None)
@given(some_records, some_speed)
def test_tradeoff_points_are_those_of_counting_flops(records, speed):
    found = tradeoff(records, [speed], 0.95)
    lengths = records.lengths.tolist()
    full = sum(int(full_depth_flops(records.shape, length)) for length in lengths)
    done, rows = 0, plain_rows(records, speed)
    for (head, layer, *_), length in zip(rows, lengths, strict=True):
        done += layer * int(layer_flops(records.shape, length)) + (head + 1) * int(head_flops(records.shape, length))
    (point,) = found.speeds
    assert (point.kind, point.value) == ("speed", speed)
    assert point.accuracy == pytest.approx(sum(row[3] == row[4] for row in rows) / len(rows))
    assert point.flops_speedup == pytest.approx(full / done)
    assert point.mean_exit_layer == pytest.approx(statistics.mean(row[1] for row in rows))
    assert [point.value for point in found.depths] == list(records.exit_layers)
    for head, point in enumerate(found.depths):
        static = sum(int(point.value * layer_flops(records.shape, n) + head_flops(records.shape, n)) for n in lengths)
        right = int(records.right[:, head].sum())
        exact = stats.binomtest(right, len(records)).proportion_ci(0.95, method="exact")
        assert point.accuracy == right / len(records) and point.mean_exit_layer == point.value
        assert point.accuracy_interval == pytest.approx((exact.low, exact.high))
        assert point.flops_speedup == pytest.approx(full / static)
    assert found.full_depth.flops_speedup == 1 and found.full_depth.accuracy == records.full_depth_accuracy


def test_a_second_model_is_measured_by_the_full_depth_of_the_first():
    large, small = make_records(80, (2, 4, 6)), make_records(80, (1, 2, 3))
    own, other = tradeoff(small, SPEEDS, 0.95), tradeoff(small, SPEEDS, 0.95, baseline=large)
    scale = int(full_depth_flops(large.shape, large.lengths.numpy()).sum()) / int(
        full_depth_flops(small.shape, small.lengths.numpy()).sum()
    )
    assert scale > 1.5
    for kind in ("speeds", "depths"):
        for before, after in zip(getattr(own, kind), getattr(other, kind), strict=True):
            assert after.flops_speedup == pytest.approx(scale * before.flops_speedup)
            assert after.accuracy == before.accuracy
    assert other.curve.flops_speedup == pytest.approx([scale * speedup for speedup in own.curve.flops_speedup])
    assert other.curve.accuracy == own.curve.accuracy


def test_a_calibrated_setting_is_simulated():
    records = make_records(300)
    setting = calibrate(records, Objective(max_drop=0.1))
    point = tradeoff(records, SPEEDS, 0.95, setting=setting).calibrated
    result = simulate(records, setting.rule)
    assert (point.kind, point.value) == ("calibrated", None)
    assert (point.accuracy, point.flops_speedup) == (result.accuracy, result.flops_speedup)
    assert tradeoff(records, SPEEDS, 0.95).calibrated is None


def test_times_reach_their_points():
    found = tradeoff(make_records(40), SPEEDS, 0.95)
    setting = calibrate(make_records(300), Objective(max_drop=0.1))
    found = replace(found, calibrated=tradeoff(make_records(40), SPEEDS, 0.95, setting=setting).calibrated)
    times = {
        ("calibrated", None): WallClock(3.0, 1.5, (1.5,)),
        ("speed", 0.3): WallClock(1.0, 2.0, (2.0,)),
        ("depth", 3): WallClock(4.0, 1.2, (1.2,)),
    }
    timed = found.timed(times)
    assert [point.wall_clock for point in timed.speeds] == [None, times["speed", 0.3], None, None]
    assert [point.wall_clock for point in timed.depths] == [None, None, times["depth", 3], None]
    assert timed.calibrated.wall_clock == times["calibrated", None]
    assert [replace(point, wall_clock=None) for point in timed.speeds] == list(found.speeds)


@pytest.mark.parametrize(
    ("speeds", "distributions", "middle"),
    [(SPEEDS, [0, 0.3, 0.5, 0.8], 0.5), ((0.2,), [0, 0.2], 0.2), ((0.0, 0.4), [0, 0.4], 0.4), ((0.0,), [0], 0.0)],
)
def test_an_analysis_has_all_figures(speeds, distributions, middle):
    records = make_records(60)
    found = analyze(records, speeds, compared=make_records(60, seed=1))
    assert found.samples == sum(found.samples_per_class) == 60
    assert found.samples_per_class == tuple(records.labels.tolist().count(k) for k in range(3))
    assert found.mean_tokens == pytest.approx(statistics.mean(records.lengths.tolist()))
    assert [one.speed for one in found.uncertainty] == distributions
    for figures in (found.exits, found.changes_at_speed):
        assert [one.speed for one in figures] == list(speeds)
    assert [point.value for point in found.compared.speeds] == list(speeds)
    assert found.middle_speed == middle and len(found.easiest) == len(found.hardest) == 10


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("bert", {}),
        ("bert", {"exit_layers": [1, 3, 4], "head_type": "pooled", "head_pooling": "mean"}),
        ("distilbert", {}),
        ("electra-small", {}),
        ("roberta", {"exit_layers": [2, 4]}),
    ],
)
@torch.inference_mode()
def test_a_cut_model_answers_as_the_head_of_its_last_layer(family, options):
    model = make_family(family, **options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids, mask = make_batch()
    every = model(ids, mask, output_all_exits=True).all_logits
    for head, layer in enumerate(model.config.exit_layers):
        cut = cut_to_depth(model, layer)
        assert len(cut.layers) == cut.config.num_hidden_layers == layer and len(cut.heads) == 1
        assert not cut.training
        output = cut(ids, mask)
        torch.testing.assert_close(output.logits, every[:, head], rtol=0, atol=1e-6)
        assert output.exit_layer.tolist() == [layer] * len(ids)
        fastbert_kernels.patch(cut)
        torch.testing.assert_close(cut(ids, mask).logits, every[:, head], rtol=0, atol=1e-4)
    own = {tensor.data_ptr() for tensor in model.parameters()}
    assert all(tensor.data_ptr() in own for tensor in cut_to_depth(model, layer).parameters())
    assert len(model.layers) == model.config.num_hidden_layers == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(model(ids, mask, output_all_exits=True).all_logits, every, rtol=0, atol=0)


def test_depth_points_are_what_cut_models_score():
    model = make_model(num_layers=4, exit_layers=[1, 2, 4]).eval()
    dataset = TokenisedDataset(make_data(60), make_tokenizer(), 16)
    found = tradeoff(record_exits(model, dataset), SPEEDS, 0.95)
    for point in found.depths:
        assert evaluate(cut_to_depth(model, int(point.value)), dataset).accuracy == point.accuracy


def test_what_cannot_be_analyzed_is_refused():
    with pytest.raises(ValueError, match=r"layer 3 has no exit head; those of this model are at \[1, 4\]"):
        cut_to_depth(make_model(num_layers=4, exit_layers=[1, 4]), 3)
    with pytest.raises(ValueError, match="a multi-label model has no single prediction"):
        check_model([1, 2], multi_label=True)
    with pytest.raises(ValueError, match=r"no student classifiers \(exit_layers is \[6\]\)"):
        check_model([6], multi_label=False)
    with pytest.raises(ValueError, match="5 rows are too few for an analysis; use at least 20"):
        check_samples([0, 1, 0, 1, 0], ["no", "yes"])
    with pytest.raises(ValueError, match="all 30 rows have the class 'yes'"):
        check_samples([1] * 30, ["no", "yes"])
    check_samples([0, 1] * 10, ["no", "yes"])
    check_model([3, 6], multi_label=False)

"""From recorded exits and a target to a setting: its figures, its words, its file, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from fastbert_hf.calibration import (
    CalibratedSetting,
    ExitRecords,
    ExitRule,
    Objective,
    calibrate,
    certify_one_speed,
    certify_searched,
    figures_of,
    simulate,
)
from fastbert_hf.calibration.intervals import share_interval
from fastbert_hf.exits.criteria import default_criterion
from fastbert_hf.flops import ModelShape
from helpers.populations import POPULATIONS, losses_of, make_multi_label_population, make_population


def test_too_few_samples_are_refused_with_the_number_that_is_enough() -> None:
    five = make_population(5)
    with pytest.raises(ValueError, match="5 samples cannot show .* 299 samples are enough"):
        calibrate(five, Objective(max_drop=0.01), search="one_speed")
    with pytest.raises(ValueError, match=r"374 samples \(299 to test with"):
        calibrate(five, Objective(max_drop=0.01))
    with pytest.raises(ValueError, match="5 samples are too few"):
        calibrate(five, Objective(min_speedup=1.5))
    with pytest.raises(ValueError, match="374 samples"):
        calibrate(make_population(373), Objective(max_drop=0.01))
    certify_searched(make_population(374), 0.01)
    certify_one_speed(make_population(299), 0.01)


def test_without_labels_the_promise_says_so(tmp_path) -> None:
    few = make_population(12)
    for objective, search, enough in (
        (Objective(max_disagreement=0.01), "searched", r"374 samples \(299 to test with"),
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
    assert setting.evidence.samples_for_choosing == (160 if guaranteed and search == "searched" else 0)
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

"""The audit on texts whose truth is known, how often it is wrong, and what it costs predict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fastbert_hf import Audit, predict
from fastbert_hf.audit import find_shift
from fastbert_hf.calibration import ExitRule, Objective, calibrate, record_exits
from fastbert_hf.data import TextData, TokenisedDataset
from helpers.training import make_data, make_model, make_tokenizer

RUNS = 100
TEXTS = make_data(400).texts


def most_violations(level: float, count: int = RUNS) -> int:
    return int(stats.binom.ppf(0.999, count, level))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    model = make_model(num_layers=4).eval()
    for head in model.heads:  # spreads the uncertainties over [0, 1]
        head.classifier.weight.data *= 25
    records = record_exits(model, TokenisedDataset(TextData(TEXTS, None), tokenizer, 16))
    model.calibrated_setting = calibrate(records, Objective(max_disagreement=0.3), search="one_speed")
    assert model.calibrated_setting.figures.disagreement > 0.1
    return model


def feed(audit: Audit, exits: torch.Tensor, differs: torch.Tensor) -> None:
    """Texts that leave at `exits`, [n], and whose answer differs from full depth's where `differs`, bool [n]."""
    drawn = audit.draw(len(exits))
    full_depth = torch.tensor([[1.0, 0.0]]).expand(len(exits), 2)
    given = torch.where(differs[:, None], full_depth.flip(1), full_depth)
    audit.add_exits(exits)
    audit.add_answers(given[drawn], full_depth[drawn])


def test_answers_are_the_same_and_the_drawn_texts_are_compared_with_full_depth(model, tokenizer) -> None:
    alone = predict(model, tokenizer, TEXTS)
    full_depth = predict(model, tokenizer, TEXTS, speed=0.0)
    reports = {}
    for window in (400, 64):
        audit = Audit.of(model, 0.25, seed=3)
        audited = predict(model, tokenizer, TEXTS, audit=audit, window=window)
        given = predict(model, tokenizer, TEXTS, window=window)
        assert torch.equal(audited.logits, given.logits) and torch.equal(audited.exit_layer, given.exit_layer)
        reports[window] = audit.report()
    assert reports[400] == reports[64], "the draw does not depend on the windows"
    report, drawn = reports[400], torch.from_numpy(np.random.default_rng(3).random(400) < 0.25)
    assert (report.texts, report.audited) == (400, int(drawn.sum())) and 60 < report.audited < 140
    assert report.disagreements == int((alone.labels != full_depth.labels)[drawn].sum()) > 0
    assert report.exit_counts == tuple(int((alone.exit_layer == layer).sum()) for layer in (1, 2, 3, 4))
    assert report.calibrated_exit_counts == model.calibrated_setting.figures.exit_counts
    assert (report.promised, report.confidence) == (0.3, 0.95)
    assert report.warnings == [] and report.total_variation < 0.02, "the same texts as in the calibration"
    whole = Audit.of(model, 1.0)
    predict(model, tokenizer, TEXTS, audit=whole)
    assert whole.report().disagreement == model.calibrated_setting.figures.disagreement


def test_passages_of_long_texts_are_compared_text_by_text(model, tokenizer) -> None:
    texts, how = [" ".join([text] * (1 + number % 4)) for number, text in enumerate(TEXTS[:60])], {"max_length": 8}
    audit = Audit.of(model, 1.0, speed=0.5)
    given = predict(model, tokenizer, texts, speed=0.5, stride=1, audit=audit, window=32, **how)
    full_depth = predict(model, tokenizer, texts, speed=0.0, stride=1, **how)
    report = audit.report()
    assert report.audited == report.texts == 60
    assert report.disagreements == int((given.labels != full_depth.labels).sum()) > 0


def test_another_speed_is_not_what_was_promised(model) -> None:
    for how in ({"speed": 0.5}, {"speedup": 1.2}, {"speed": ExitRule.one_speed((1,), 0.2)}):
        report = Audit.of(model, 0.5, **how).report()
        assert report.promised is report.calibrated_exit_counts is report.disagreement is report.total_variation is None
        assert report.disagreement_interval == (0.0, 1.0) and report.warnings == []


def test_what_cannot_be_audited_is_refused(model) -> None:
    fresh = make_model()
    with pytest.raises(ValueError, match="not calibrated, so that all texts run to full depth; calibrate it first"):
        Audit.of(fresh, 0.1)
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="share of texts to audit must be above 0"):
            Audit.of(model, share)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        Audit.of(model, 0.1, confidence=1.0)
    with pytest.raises(ValueError, match="4 layers have as many exit counts, got 1"):
        Audit(0.1, 4, calibrated_exit_counts=[3])


def test_scores_have_no_labels_to_compare() -> None:
    scores = make_model(num_labels=1, problem_type="regression")
    with pytest.raises(ValueError, match="an audit has to know from where on it is another answer"):
        Audit.of(scores, 0.1, speed=0.5)


def test_nobody_foresees_the_draw_without_a_seed() -> None:
    draws = [Audit(0.5, 2).draw(64).tolist() for _ in range(2)]
    assert draws[0] != draws[1], "equal once in 2^64"
    assert Audit(0.5, 2, seed=0).draw(64).tolist() == Audit(0.5, 2, seed=0).draw(64).tolist()


def test_a_setting_of_before_has_nothing_to_compare_exit_layers_with(model) -> None:
    setting = model.calibrated_setting
    old = replace(setting, figures=replace(setting.figures, exit_counts=None))
    model.calibrated_setting = old
    try:
        audit = Audit.of(model, 1.0)
    finally:
        model.calibrated_setting = setting
    feed(audit, torch.full((500,), 4), torch.zeros(500, dtype=torch.bool))
    assert audit.report().total_variation is None and audit.report().warnings == []


def test_a_kept_promise_is_rarely_said_to_be_broken_however_often_one_looks() -> None:
    """The share that differs is just what was promised: the hardest case."""
    generator, level, alarms = torch.Generator().manual_seed(1), 0.1, 0
    for seed in range(RUNS):
        audit = Audit(0.5, 2, promised=0.05, confidence=1 - level, seed=seed)
        for _ in range(12):
            feed(audit, torch.full((100,), 2), torch.rand(100, generator=generator) < 0.05)
            if audit.report().promise_broken:
                alarms += 1
                break
    print(f"{alarms} of {RUNS} audits call a kept promise broken")
    assert alarms <= most_violations(level)


def test_a_broken_promise_is_told() -> None:
    audit = Audit(0.1, 2, promised=0.01, seed=4)
    generator = torch.Generator().manual_seed(1)
    feed(audit, torch.full((20_000,), 1), torch.rand(20_000, generator=generator) < 0.05)
    report = audit.report()
    assert report.promise_broken and report.disagreement_interval[0] < 0.05 < report.disagreement_interval[1]
    (line,) = report.warnings
    assert "the promise is broken" in line and "at most 1 % was promised" in line and "\n" not in line


def test_equal_traffic_is_rarely_said_to_have_changed_however_often_one_looks() -> None:
    generator, level, alarms = np.random.default_rng(2), 0.1, 0
    shares = [0.3, 0.25, 0.05, 0.4]
    for _ in range(RUNS):
        calibrated = generator.multinomial(300, shares)
        seen = generator.multinomial(100, shares, size=20).cumsum(axis=0)
        alarms += any(find_shift(calibrated, counts, 1 - level) for counts in seen.tolist())
    print(f"{alarms} of {RUNS} audits call equal traffic another")
    assert alarms <= most_violations(level)


def test_another_traffic_is_told_by_the_layers_where_texts_leave() -> None:
    generator = np.random.default_rng(2)
    calibrated = generator.multinomial(1000, [0.5, 0.3, 0.1, 0.1])
    audit = Audit(0.01, 4, promised=0.01, calibrated_exit_counts=calibrated.tolist())
    audit.add_exits(torch.from_numpy(generator.choice([1, 2, 3, 4], 1000, p=[0.3, 0.3, 0.2, 0.2])))
    report = audit.report()
    shift = report.shift
    assert shift is not None and shift.layer in (1, 2)
    assert shift.seen_interval[1] < shift.calibrated_interval[0] and shift.seen < shift.calibrated
    (line,) = report.warnings
    assert "the traffic is not that of the calibration" in line and f"leave by layer {shift.layer}" in line
    assert report.total_variation == pytest.approx(0.2, abs=0.05)
    assert find_shift([10, 0], [0, 0], 0.95) is find_shift([7], [7], 0.95) is find_shift([0, 0], [9, 9], 0.95) is None
    assert find_shift([0, 5000], [5000, 0], 0.95) is not None


@pytest.mark.parametrize("multi_label", [False, True])
def test_answers_differ_in_any_class(multi_label) -> None:
    audit = Audit(1.0, 2, multi_label=multi_label)
    given = torch.tensor([[2.0, -1.0, -1.0], [2.0, 1.0, -1.0], [-1.0, 2.0, -3.0]])
    full_depth = torch.tensor([[1.0, -2.0, -1.0], [2.0, -1.0, -1.0], [3.0, 2.0, -3.0]])
    audit.add_answers(given, full_depth)
    assert audit.report().disagreements == (2 if multi_label else 1)

"""The verdict on made-up answers whose best contender is known, and its figures against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastbert_hf.analysis.verdict import ALLOWED_DROP, verdict
from fastbert_hf.calibration import ExitRecords, ExitRule, simulate
from fastbert_hf.calibration.simulation import uncertainties
from fastbert_hf.flops import ModelShape, first_layers_flops, full_depth_flops
from helpers.analysis import make_records
from helpers.populations import with_layer_zero

LAYERS = 4
SURE, UNSURE = 8.0, 0.2  # of the logit of the class that is answered


def records_of(right: np.ndarray, sure: np.ndarray) -> ExitRecords:
    """Heads that are right and sure as told, both [n, heads], on two classes."""
    size, heads = right.shape
    labels = torch.arange(size) % 2
    answers = torch.where(torch.from_numpy(right), labels[:, None], 1 - labels[:, None])
    logits = torch.zeros(size, heads, 2)
    heights = torch.where(torch.from_numpy(sure), SURE, UNSURE).float()
    logits.scatter_(2, answers[:, :, None], heights[:, :, None])
    lengths = torch.randint(3, 60, (size,), generator=torch.Generator().manual_seed(0))
    shape = ModelShape(32, 64, heads, 16, 2, exit_layers=tuple(range(1, heads + 1)))
    return ExitRecords(logits, labels, lengths, shape)


def honest(size: int = 600) -> ExitRecords:
    """Half of the texts are easy, and the first layer knows which; on the others only the last layer is right."""
    easy = np.arange(size) % 2 == 0
    right = np.stack([easy, easy, easy, np.arange(size) % 20 != 1], axis=1)
    sure = np.stack([easy, easy, easy, np.ones(size, dtype=bool)], axis=1)
    return records_of(right | easy[:, None], sure)


def shallow(size: int = 600, right_from: int = 2) -> ExitRecords:
    """From some layer on all heads are right on the same texts, but none is sure."""
    known = np.arange(size) % 10 > 0
    right = np.stack([known if layer >= right_from else np.zeros(size, bool) for layer in range(1, 5)], axis=1)
    return records_of(right, np.zeros((size, LAYERS), dtype=bool))


def answers_of(records: ExitRecords, accuracy: float) -> np.ndarray:
    """Class ids that are right on so many texts."""
    labels = records.labels.numpy()
    return np.where(np.arange(len(labels)) < accuracy * len(labels), labels, 1 - labels)


def test_early_exit_pays_where_the_first_layer_knows_what_it_knows() -> None:
    records = honest()
    found = verdict(records)
    assert found.winner == "early exit" and found.sentence.startswith("Early exit pays here: ")
    assert found.layers == LAYERS and found.layers_speedup == 1
    best = simulate(records, ExitRule.one_speed(records.student_layers, 0.5))
    assert found.exit_speedup == pytest.approx(best.flops_speedup) and found.gain == pytest.approx(found.exit_speedup)
    assert 1 < found.gain_interval[0] < found.gain < found.gain_interval[1]
    assert found.bag is None and found.bag_interval is None


def test_layers_alone_are_as_good_where_no_head_is_sure() -> None:
    found = verdict(shallow())
    assert (found.winner, found.layers) == ("first layers", 2) and found.sentence.startswith(
        "2 layers alone are as good"
    )
    assert found.layers_speedup > 1.9 and found.gain_interval[1] <= 1
    found = verdict(shallow(right_from=1))
    assert found.sentence.startswith("1 layer alone is as good here: ")


def test_full_depth_where_nothing_else_reaches_it() -> None:
    found = verdict(shallow(right_from=4))
    assert (found.winner, found.layers, found.layers_speedup) == ("full depth", LAYERS, 1)
    assert found.sentence.startswith("Early exit does not pay here, nor do fewer layers: ")


@pytest.mark.parametrize(("accuracy", "wins"), [(0.95, True), (0.93, True), (0.85, False)])
def test_a_bag_of_words_is_as_good_unless_its_interval_lies_below(accuracy: float, wins: bool) -> None:
    records = honest()  # full depth: 95 %
    found = verdict(records, bag=answers_of(records, accuracy))
    assert found.full_depth == pytest.approx(0.95) and found.bag == pytest.approx(accuracy)
    assert found.bag_interval[0] < accuracy - 0.95 < found.bag_interval[1]
    assert (found.bag_interval[1] >= -ALLOWED_DROP) == wins
    assert found.winner == ("bag of words" if wins else "early exit")
    assert found.sentence.startswith("A bag of words is as good here: it is right on ") == wins


def test_few_texts_decide_for_what_is_simpler() -> None:
    """The same difference of 10 points, on 20 texts and on 600."""
    for size, winner in ((20, "bag of words"), (600, "early exit")):
        records = honest(size)
        assert verdict(records, bag=answers_of(records, 0.85)).winner == winner


def test_the_rule_of_a_calibrated_setting_takes_part() -> None:
    """Only the second layer is sure of what it is right on; the first is sure of everything."""
    size = 600
    easy = np.arange(size) % 2 == 0
    right = np.stack([np.zeros(size, bool), easy, easy, np.arange(size) % 10 > 0], axis=1)
    sure = np.stack([np.ones(size, bool), easy, easy, np.ones(size, bool)], axis=1)
    records = records_of(right | (easy[:, None] & (np.arange(4) > 0)), sure)
    assert verdict(records).winner == "full depth"
    rule = ExitRule((2,), (0.5,))
    found = verdict(records, rule=rule)
    assert found.winner == "early exit"
    assert found.exit_speedup == pytest.approx(simulate(records, rule).flops_speedup)


def test_one_speed_is_tried_with_layer_zero_and_without_it() -> None:
    records = honest()
    plain = verdict(records)
    assert plain.layer_zero is None and "layer 0" not in plain.sentence
    spoilt = verdict(with_layer_zero(records, helps=False))  # surely wrong on a fifth
    assert (spoilt.winner, spoilt.layer_zero, spoilt.exit_speedup) == ("early exit", False, plain.exit_speedup)
    assert f"{spoilt.exit_speedup:.2f} with early exits (layer 0 not asked) and" in spoilt.sentence
    helped = with_layer_zero(records, helps=True)
    found = verdict(helped)
    assert (found.winner, found.layer_zero) == ("early exit", True)
    best = simulate(helped, ExitRule.one_speed(helped.student_layers, 0.5))
    assert found.exit_speedup == pytest.approx(best.flops_speedup) and best.flops_speedup > plain.exit_speedup
    assert "with early exits (layer 0 asked) and" in found.sentence
    # A calibrated setting says it by its own layers.
    setting = verdict(with_layer_zero(records, helps=False), rule=ExitRule((0, 1), (0.0, 0.5)))  # no heads at 2 and 3
    assert setting.layer_zero is True and setting.exit_speedup > spoilt.exit_speedup


def test_figures_are_those_of_plain_python() -> None:
    records = make_records(120, seed=5)
    found, lengths = verdict(records), records.lengths.numpy()
    full = int(full_depth_flops(records.shape, lengths).sum())
    target = records.full_depth_accuracy - ALLOWED_DROP - 1e-9
    alone = [
        (full / int(first_layers_flops(records.shape, layer, lengths).sum()), layer)
        for head, layer in enumerate(records.exit_layers)
        if records.right[:, head].mean() >= target
    ]
    assert (found.layers_speedup, found.layers) == (pytest.approx(max(alone)[0]), max(alone)[1])
    speeds = np.unique(uncertainties(records, "entropy")[:, :-1])
    settings = [simulate(records, ExitRule.one_speed(records.student_layers, float(speed))) for speed in speeds]
    best = max(setting.flops_speedup for setting in settings if setting.accuracy >= target)
    assert 0.97 * best < found.exit_speedup <= best + 1e-9  # 64 of the Speeds are tried
    assert math.isclose(found.gain, found.exit_speedup / found.layers_speedup)


def test_the_same_every_time() -> None:
    records = make_records(80)
    assert verdict(records) == verdict(records)
    assert verdict(records).gain_interval != verdict(records, seed=1).gain_interval

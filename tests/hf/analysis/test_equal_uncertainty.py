"""Movement of uncertainty, and heads at equal uncertainty, on records whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastbert_hf.analysis import at_equal_uncertainty, uncertainty_steps
from fastbert_hf.calibration import ExitRecords
from fastbert_hf.calibration.guarantee import split_rows
from fastbert_hf.calibration.simulation import uncertainties
from fastbert_hf.flops import ModelShape
from helpers.analysis import make_records


def sure_by(*columns: torch.Tensor, labels: torch.Tensor) -> ExitRecords:
    """Records of two classes whose heads have these logits for class 1 and 0 for the other."""
    logits = torch.stack([torch.stack([torch.zeros_like(column), column], dim=-1) for column in columns], dim=1)
    layers = tuple(range(1, len(columns) + 1))
    shape = ModelShape(8, 16, len(columns), 4, 2, exit_layers=layers)
    return ExitRecords(logits.float(), labels, torch.full((len(labels),), 9), shape)


def drawn(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that they give the right probability."""
    generator = torch.Generator().manual_seed(5)
    logits = 1.5 * torch.randn(samples, generator=generator)
    return logits, (torch.rand(samples, generator=generator) < logits.sigmoid()).long()


def test_a_teacher_that_is_too_sure_is_worse_at_equal_uncertainty_until_it_has_its_temperature():
    logits, labels = drawn(6000)
    (student,) = at_equal_uncertainty(sure_by(logits, 3 * logits, labels=labels))
    assert student.layer == 1 and student.as_is.value > 0.05 and student.as_is.interval[0] > 0.03
    assert student.temperatures == pytest.approx((1, 3), rel=0.1)
    assert abs(student.scaled.value) < 0.02 and student.scaled.interval[0] < 0.01
    (student,) = at_equal_uncertainty(sure_by(3 * logits, logits, labels=labels))
    assert student.as_is.interval[1] < -0.03


def test_the_same_head_twice_makes_no_difference():
    logits, labels = drawn(400)
    (student,) = at_equal_uncertainty(sure_by(logits, logits, labels=labels))
    assert student.as_is.value == 0 and student.as_is.interval == (0, 0) and student.scaled.value == 0


def test_differences_are_those_of_counting():
    records = make_records(300, (2, 5, 6))
    rest = records.rows(split_rows(len(records), 0.5, seed=0)[1])
    tenth = np.minimum((uncertainties(rest, "entropy").astype(float) * 10).astype(int), 9)
    for head, found in enumerate(at_equal_uncertainty(records)):
        total = weight = 0.0
        for place in range(10):
            own, teacher = tenth[:, head] == place, tenth[:, -1] == place
            both = min(own.sum(), teacher.sum())
            if both >= 10:
                total += both * (rest.right[own, head].mean() - rest.right[teacher, -1].mean())
                weight += both
        assert found.layer == records.exit_layers[head] and found.as_is.value == pytest.approx(total / weight)
        assert found.as_is.interval[0] < found.as_is.value < found.as_is.interval[1]


def test_heads_that_are_never_equally_unsure_have_no_difference():
    sure = torch.full((60,), 9.0)
    (student,) = at_equal_uncertainty(sure_by(sure, torch.zeros(60), labels=torch.arange(60) % 2))
    assert student.as_is.value is None and student.as_is.interval is None


def test_steps_know_the_order_and_who_falls():
    size = torch.linspace(0.1, 4, 40)  # surer and surer
    records = sure_by(size, 2 * size, size.flip(0), torch.ones(40), labels=torch.zeros(40, dtype=torch.long))
    surer, turned, flat = uncertainty_steps(records)
    assert (surer.from_layer, surer.to_layer, surer.falls) == (1, 2, 1) and surer.rank_correlation == pytest.approx(1)
    assert turned.rank_correlation == pytest.approx(-1) and flat.rank_correlation is None
    for step in (surer, turned, flat):
        assert np.asarray(step.counts).shape == (10, 10) and np.asarray(step.counts).sum() == 40
    entropy = lambda z: -sum(p * math.log2(p) for p in (1 / (1 + math.exp(-z)), 1 / (1 + math.exp(z))))  # noqa: E731
    wanted = np.zeros((10, 10), dtype=int)
    for one in size.tolist():
        wanted[min(int(10 * entropy(one)), 9), min(int(10 * entropy(2 * one)), 9)] += 1
    assert np.array_equal(surer.counts, wanted)


def test_unknown_uncertainties_are_counted_apart():
    records = make_records(30, (1, 2, 3))
    logits = records.logits.clone()
    logits[4, 1] = math.nan
    first, second = uncertainty_steps(replace(records, logits=logits))
    assert first.unknown == second.unknown == 1 and np.asarray(first.counts).sum() == 29

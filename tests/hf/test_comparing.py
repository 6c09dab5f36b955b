"""Differences of two settings: exact on the texts, and intervals that hold as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastbert_hf.comparing import compare_results
from fastbert_hf.training import EvaluationResult
from fastbert_hf.training.evaluation import scores_of


def result_of(labels, predictions):
    accuracy, macro_f1 = scores_of(predictions, labels, 3).values()
    layers = torch.ones_like(labels)
    return EvaluationResult(accuracy, macro_f1, labels, predictions, layers, torch.zeros(len(labels)), layers)


def drawn(size, seed):
    """Labels and answers of two settings that are right on 80 % and 85 % of texts, mostly the same ones."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (size,), generator=generator)
    chance = torch.rand(size, generator=generator)
    first = torch.where(chance < 0.80, labels, (labels + 1) % 3)
    second = torch.where((chance < 0.75) | (chance > 0.90), labels, (labels + 1) % 3)
    return result_of(labels, first), result_of(labels, second)


def test_differences_are_those_of_the_scores():
    first, second = drawn(400, 0)
    found = compare_results(first, second)
    assert found.accuracy == pytest.approx(second.accuracy - first.accuracy)
    assert found.macro_f1 == pytest.approx(second.macro_f1 - first.macro_f1)
    right = [(one.predictions == one.labels) for one in (first, second)]
    assert found.only_first_right == int((right[0] & ~right[1]).sum())
    assert found.only_second_right - found.only_first_right == round(found.accuracy * 400)
    for low, high in (found.accuracy_interval, found.macro_f1_interval):
        assert low < high
    same = compare_results(first, first)
    assert same.accuracy == same.macro_f1 == 0 and same.accuracy_interval == same.macro_f1_interval == (0, 0)


def test_intervals_hold_the_true_difference_about_as_often_as_they_say():
    hits = [
        low <= 0.05 <= high
        for low, high in (compare_results(*drawn(300, seed), confidence=0.9).accuracy_interval for seed in range(60))
    ]
    assert 0.78 <= np.mean(hits) <= 1.0  # of 60 draws at 0.9, within three standard deviations

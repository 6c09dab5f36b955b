"""Scores class by class, against scikit-learn's definitions counted by hand."""

from __future__ import annotations

import pytest
import torch

from fastbert_hf.by_class import confusion, scores_by_class
from fastbert_hf.training.evaluation import scores_of


def test_scores_are_those_counted_text_by_text():
    generator = torch.Generator().manual_seed(3)
    labels, predictions = (torch.randint(0, 4, (50,), generator=generator) for _ in range(2))
    layers = torch.randint(1, 4, (50,), generator=generator)
    matrix = confusion(labels, predictions, 5)
    scores = scores_by_class(labels, predictions, layers, ["a", "b", "c", "d", "never"], 3)
    pairs = list(zip(labels.tolist(), predictions.tolist(), layers.tolist(), strict=True))
    for index, score in enumerate(scores[:4]):
        right = sum(label == said == index for label, said, _ in pairs)
        mine = [layer for label, _, layer in pairs if label == index]
        assert matrix[index].tolist() == [sum((x, y) == (index, other) for x, y, _ in pairs) for other in range(5)]
        assert (score.texts, score.exit_layers) == (len(mine), tuple(mine.count(layer) for layer in (1, 2, 3)))
        assert score.recall == right / len(mine)
        assert score.precision == right / sum(said == index for _, said, _ in pairs)
        assert score.mean_exit_layer == pytest.approx(sum(mine) / len(mine))
    assert [getattr(scores[4], name) for name in ("texts", "precision", "recall", "f1", "mean_exit_layer")] == [
        0,
        *[None] * 4,
    ]
    macro = sum(score.f1 for score in scores[:4]) / 4
    assert scores_of(predictions, labels, 5)["macro_f1"] == pytest.approx(macro)


def test_several_classes_per_text():
    labels = torch.tensor([[1, 1], [0, 1], [0, 0]])
    predictions = torch.tensor([[True, False], [True, True], [False, False]])
    first, second = scores_by_class(labels, predictions, torch.tensor([1, 2, 2]), ["x", "y"], 2)
    assert (first.precision, first.recall, second.precision, second.recall) == (0.5, 1.0, 1.0, 0.5)
    assert (first.texts, second.texts, second.mean_exit_layer) == (1, 2, 1.5)

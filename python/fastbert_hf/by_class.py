"""Scores class by class: precision, recall, F1, which class is taken for which, and where its texts leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ClassScores:
    """One class.

    Attributes:
        name: of the class.
        texts: how many have it.
        precision: part of the texts predicted as this class that have it; `None`: none is predicted so.
        recall: part of its texts that are predicted as this class; `None`: no text has it.
        f1: 2 true positives over the texts that have it and those predicted so; `None`: there are neither.
        mean_exit_layer: of the texts that have it; `None`: no text has it.
        exit_layers: how many of the texts that have it leave after each layer, from 1 to L; of a model with exit zero
            from 0 on.
    """

    name: str
    texts: int
    precision: float | None
    recall: float | None
    f1: float | None
    mean_exit_layer: float | None
    exit_layers: tuple[int, ...]


def scores_by_class(
    labels: torch.Tensor,
    predictions: torch.Tensor,
    exit_layers: torch.Tensor,
    names: Sequence[str],
    num_layers: int,
    first_layer: int = 1,
) -> list[ClassScores]:
    """Return the scores of all N classes.

    Args:
        labels: int64 [n], or [n, N] of 0 and 1 for a multi-label model.
        predictions: int64 [n], or bool [n, N].
        exit_layers: int64 [n], in 1..L, or 0 at exit zero.
        names: of the classes, in the order of their ids.
        num_layers: L.
        first_layer: 0 for a model with exit zero.
    """
    true, predicted = (_of_classes(values, len(names)) for values in (labels, predictions))
    scores = []
    for index, name in enumerate(names):
        has, said = true[:, index], predicted[:, index]
        right, texts, answers = int((has & said).sum()), int(has.sum()), int(said.sum())
        layers = exit_layers[has]
        scores.append(
            ClassScores(
                name=name,
                texts=texts,
                precision=right / answers if answers else None,
                recall=right / texts if texts else None,
                f1=2 * right / (texts + answers) if texts + answers else None,
                mean_exit_layer=layers.double().mean().item() if texts else None,
                exit_layers=tuple(torch.bincount(layers, minlength=num_layers + 1)[first_layer:].tolist()),
            )
        )
    return scores


def macro_f1(true: torch.Tensor, predicted: torch.Tensor) -> float:
    """Return the mean of F1 over the classes that occur; 1 where none does, since every answer is right then.

    Args:
        true: bool [n, N], which classes each text has.
        predicted: bool [n, N], which ones it is predicted to have.
    """
    right = (predicted & true).sum(dim=0).double()
    counted = predicted.sum(dim=0) + true.sum(dim=0)  # 2 true positives + false positives + false negatives
    occurs = counted > 0
    return (2 * right[occurs] / counted[occurs]).mean().item() if occurs.any() else 1.0


def confusion(labels: torch.Tensor, predictions: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Return how many texts of each class (rows) are predicted as each class (columns), int64 [N, N].

    Args:
        labels: int64 [n].
        predictions: int64 [n].
        num_labels: N.
    """
    return torch.bincount(labels * num_labels + predictions, minlength=num_labels**2).view(num_labels, num_labels)


def _of_classes(values: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Return bool [n, N], True for the classes of each text."""
    return values[:, None] == torch.arange(num_labels) if values.dim() == 1 else values.bool()

"""How far two forms of a model, such as the patched and the unpatched one, give the same answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.outputs import same_predictions
from fastbert_hf.timing import Batch


@dataclass(frozen=True)
class Agreement:
    """Which answers are the same.

    Attributes:
        labels: share of equal predicted labels; of a multi-label model all labels of a sample must be the same.
        exit_layers: share of equal exit layers among the samples that no uncertainty puts at the Speed.
        logits: largest difference where the exit layers are equal.
        answers: number of labels that were compared, one for each sample and Speed.
        other_labels: how many of them differ.
        decided: number of exit layers that were compared.
        other_exit_layers: how many of them differ.
    """

    labels: float
    exit_layers: float
    logits: float
    answers: int
    other_labels: int
    decided: int
    other_exit_layers: int

    @property
    def is_close(self) -> bool:
        """Whether the differences are those of rounding alone."""
        return self.exit_layers == 1 and self.labels >= 0.99


@torch.inference_mode()
def compare_answers(
    model: FastBertForSequenceClassification,
    other: FastBertForSequenceClassification,
    batches: Iterable[Batch],
    speeds: Iterable[float],
    tie: float = 1e-4,
) -> Agreement:
    """Return how far the answers of `other` are those of `model`.

    Args:
        model: unpatched, on a device.
        other: on the same device.
        batches: inputs without labels, on that device.
        speeds: at which both run.
        tie: a sample with an uncertainty closer to the Speed than this may leave at another layer in another precision.
    """
    samples = equal_labels = decided = equal_layers = 0
    logits = 0.0
    speeds = list(speeds)
    for batch in batches:
        every = model(**batch, speed=0.0, output_all_exits=True).all_uncertainty[:, :-1]
        for speed in speeds:
            want, got = model(**batch, speed=speed), other(**batch, speed=speed)
            same = got.exit_layer == want.exit_layer
            clear = ((every - speed).abs() > tie).all(dim=1)
            samples += len(same)
            equal_labels += int(same_predictions(got.logits, want.logits, model.config.multi_label).sum())
            decided += int(clear.sum())
            equal_layers += int((same & clear).sum())
            if same.any():
                logits = max(logits, (got.logits - want.logits)[same].abs().max().item())
    return Agreement(
        labels=equal_labels / samples,
        exit_layers=equal_layers / decided if decided else 1.0,
        logits=logits,
        answers=samples,
        other_labels=samples - equal_labels,
        decided=decided,
        other_exit_layers=decided - equal_layers,
    )

"""How two settings differ on the same texts, with intervals of the differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fastbert_hf.training.evaluation import EvaluationResult

_DRAWS = 2000
Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """The second setting less the first, on n texts that both answered.

    Attributes:
        texts: n.
        accuracy: difference.
        accuracy_interval: of it.
        macro_f1: difference.
        macro_f1_interval: of it.
        only_first_right: texts that the first alone answers right.
        only_second_right: texts that the second alone answers right.
        other_answers: texts that both answer in different ways.
        confidence: of the intervals.
    """

    texts: int
    accuracy: float
    accuracy_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval
    only_first_right: int
    only_second_right: int
    other_answers: int
    confidence: float


def compare_results(
    first: EvaluationResult, second: EvaluationResult, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Return how `second` differs from `first`.

    The intervals are those of the bootstrap (Efron 1979, percentiles of 2,000 draws): texts are drawn with replacement,
    each with both of its answers, so that what both have in common falls out.

    Args:
        first: of a single-label model.
        second: on the same texts, in the same order and with the same class ids.
        confidence: in (0, 1).
        seed: of the draws.
    """
    labels = first.labels
    right = [(result.predictions == labels).numpy() for result in (first, second)]
    # A text counts by its label and both answers alone: their distinct triples are drawn, not the texts.
    triples = torch.stack([labels, first.predictions, second.predictions])
    kinds, counts = torch.unique(triples, dim=1, return_counts=True)
    shares = counts.numpy() / len(labels)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(labels), shares, size=_DRAWS)  # [draws, kinds]
    accuracies = [draws @ (kinds[0] == kinds[side]).numpy() / len(labels) for side in (1, 2)]
    f1s = [_macro_f1(kinds[0], kinds[side], draws) for side in (1, 2)]
    whole = [_macro_f1(kinds[0], kinds[side], counts.numpy()[None])[0] for side in (1, 2)]
    return Comparison(
        texts=len(labels),
        accuracy=float(right[1].mean() - right[0].mean()),
        accuracy_interval=_percentiles(accuracies[1] - accuracies[0], confidence),
        macro_f1=float(whole[1] - whole[0]),
        macro_f1_interval=_percentiles(f1s[1] - f1s[0], confidence),
        only_first_right=int((right[0] & ~right[1]).sum()),
        only_second_right=int((right[1] & ~right[0]).sum()),
        other_answers=int((first.predictions != second.predictions).sum()),
        confidence=confidence,
    )


def _percentiles(values: npt.NDArray[np.float64], confidence: float) -> Interval:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _macro_f1(
    labels: torch.Tensor, predictions: torch.Tensor, counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the macro F1 of every draw, [draws], of `counts` texts [draws, kinds] of each kind."""
    ids = np.unique(np.concatenate([labels.numpy(), predictions.numpy()]))  # of classes that occur at all
    true, said = (values.numpy()[:, None] == ids for values in (labels, predictions))  # [kinds, N]
    right, answered = counts @ (true & said), counts @ true + counts @ said  # [draws, N]
    occurs = answered > 0
    f1 = np.divide(2 * right, answered, out=np.zeros(right.shape), where=occurs)
    return f1.sum(axis=1) / occurs.sum(axis=1)

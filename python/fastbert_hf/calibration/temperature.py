"""Temperature scaling of exit heads (Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599, section 4.2).

Every head gets one temperature T, by which its logits are divided: predictions stay, and the probabilities, and with
them the uncertainties that are compared with Speed, mean the same at every layer. T minimises the negative
log-likelihood of the labels, which is convex in 1/T.

One Speed per layer gains nothing with two classes, where each head's Speed can undo its T; what gains is one Speed for
all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, special

from fastbert_hf.bag import HashedBag
from fastbert_hf.calibration.guarantee import TESTED_BESIDE_TEMPERATURES, split_rows
from fastbert_hf.calibration.records import ExitRecords
from fastbert_hf.calibration.search import rules_of
from fastbert_hf.data import TextData
from fastbert_hf.modeling import FastBertForSequenceClassification

# Beyond, a head is so sure (or unsure) that its uncertainties are all alike in float32.
LOWEST, HIGHEST = 0.05, 20.0
# Losses of accuracy at which the curves before and after are compared.
DROPS = (0.0, 0.005, 0.01, 0.02, 0.05)
_BINS = 15


@dataclass(frozen=True)
class TemperatureScaling:
    """Temperatures of E exit heads and what they do.

    Attributes:
        temperatures: one per head.
        records: all samples, with logits divided by the temperatures. They are those of the model into which the
            temperatures are folded; `fingerprint` is "".
        fitted_samples: number of samples that the temperatures were fitted to; the figures are of the others.
        error_before: expected calibration error of each head.
        error_after: the same with the temperatures.
        drops: losses of accuracy allowed.
        speedup_before: for each of `drops`, the largest FLOPs speed-up of one Speed (entropy, all heads).
        speedup_after: the same with the temperatures.
    """

    temperatures: tuple[float, ...]
    records: ExitRecords
    fitted_samples: int
    error_before: tuple[float, ...]
    error_after: tuple[float, ...]
    drops: tuple[float, ...]
    speedup_before: tuple[float, ...]
    speedup_after: tuple[float, ...]


def scale_temperatures(records: ExitRecords, *, seed: int = 0) -> TemperatureScaling:
    """Fit a temperature for every head to one half of the samples, drawn by `split_rows`; the other half only measures.

    A guarantee may follow on the second half, by `calibrate` with the same seed and `temperatures_fitted`.
    """
    choosing, testing = split_rows(len(records), TESTED_BESIDE_TEMPERATURES, seed)
    temperatures = fit_temperatures(records.rows(choosing))
    scaled = divide(records, temperatures)
    before, after = records.rows(testing), scaled.rows(testing)
    return TemperatureScaling(
        temperatures=temperatures,
        records=scaled,
        fitted_samples=len(choosing),
        error_before=_errors(before),
        error_after=_errors(after),
        drops=DROPS,
        speedup_before=_speedups(before),
        speedup_after=_speedups(after),
    )


def fit_temperatures(records: ExitRecords) -> tuple[float, ...]:
    """Return `fit_temperature` of every exit head."""
    labels = records.known_labels.numpy()
    return tuple(fit_temperature(logits.numpy(), labels) for logits in records.logits.unbind(dim=1))


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the T in [0.05, 20] for which `softmax(logits / T)` gives the labels the largest likelihood, in float64.

    Args:
        logits: [n, N]; rows that are not finite are left out.
        labels: [n], class ids.

    Returns:
        T; 1 when no row is finite.
    """
    scores = np.asarray(logits, dtype=np.float64)
    finite = np.isfinite(scores).all(axis=1)
    scores, classes = scores[finite], np.asarray(labels)[finite]
    if len(scores) == 0:
        return 1.0
    scores = scores - scores[np.arange(len(scores)), classes, None]

    def slope(inverse: float) -> float:
        """Return the slope in 1/T of the mean negative log-likelihood, log sum_c exp(inverse * scores_c)."""
        return float((special.softmax(inverse * scores, axis=1) * scores).sum(axis=1).mean())

    least, most = 1 / HIGHEST, 1 / LOWEST
    if slope(least) >= 0:
        return HIGHEST
    if slope(most) <= 0:
        return LOWEST
    return float(1 / optimize.brentq(slope, least, most, xtol=1e-12))


def divide(records: ExitRecords, temperatures: Sequence[float]) -> ExitRecords:
    """Return `records` with the logits of each head divided by its temperature."""
    divided = records.logits.double() / torch.tensor(temperatures, dtype=torch.float64)[:, None]
    return replace(records, logits=divided.float(), fingerprint="")


@torch.no_grad()
def fold_temperatures(
    model: FastBertForSequenceClassification, temperatures: Sequence[float], fitted_to: TextData | None
) -> None:
    """Divide the last Linear layer of every exit head by its temperature, and with it the logits; in place.

    The calibrated setting, if there is one, is dropped: it holds for the weights as they were.

    Args:
        model: with float32 or float64 weights.
        temperatures: one for each exit head.
        fitted_to: the texts that they were fitted to. The model's `seen_texts` has them from then on, since they choose
            something of the weights, so that no later guarantee may rest on them. `None` is for texts on which nobody
            will calibrate.

    Raises:
        ValueError: another number of temperatures, or 16-bit weights, whose rounding would change predictions.
    """
    if len(temperatures) != len(model.heads):
        raise ValueError(f"{len(model.heads)} exit heads need as many temperatures, got {len(temperatures)}")
    check_foldable(model)
    for head, temperature in zip(model.heads, temperatures, strict=True):
        for parameter in _last_linear(head):
            parameter.copy_(parameter.double() / temperature)
    model.calibrated_setting = None
    if fitted_to is not None:
        model.seen_texts = model.seen_texts.with_temperatures(fitted_to)


def _last_linear(head: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of what gives an exit head's logits."""
    if isinstance(head, HashedBag):
        return head.table, head.bias
    classifier = cast(torch.nn.Linear, head.classifier)
    return classifier.weight, classifier.bias


def check_foldable(model: FastBertForSequenceClassification) -> None:
    """Raise `ValueError` for weights of 16 bits."""
    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"temperatures are folded into the weights, which must be float32, and this model's are {model.dtype}: "
            "save it in float32 first (model.float().save_pretrained)"
        )


def expected_calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return how far accuracy is from the probability of the prediction: the mean distance over 15 equal bins of that
    probability, weighted with the samples in each (Guo et al. 2017, equation 3).

    Args:
        logits: float [n, N]; rows that are not finite are left out.
        labels: int64 [n].
    """
    finite = logits.isfinite().all(dim=1)
    confidence, predictions = logits[finite].double().softmax(dim=-1).max(dim=-1)
    if len(confidence) == 0:
        return float("nan")
    gap = (predictions == labels[finite]).double() - confidence
    bins = (confidence * _BINS).ceil().long().clamp(1, _BINS) - 1  # upper ends belong to their bin
    return float(torch.zeros(_BINS, dtype=torch.float64).index_add(0, bins, gap).abs().sum() / len(gap))


def _errors(records: ExitRecords) -> tuple[float, ...]:
    labels = records.known_labels
    return tuple(expected_calibration_error(logits, labels) for logits in records.logits.unbind(dim=1))


def _speedups(records: ExitRecords) -> tuple[float, ...]:
    """Return the largest FLOPs speed-up for each of `DROPS`; 1, that of full depth, at least."""
    found = rules_of(records)
    return tuple(max(one.flops_speedup for one in found if one.drop <= drop + 1e-12) for drop in DROPS)

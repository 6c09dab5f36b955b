"""All figures of an analysis, from recorded exits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fastbert_hf.analysis import exits
from fastbert_hf.analysis.bag_of_words import BagAnswers
from fastbert_hf.analysis.classes import ByClass, by_class
from fastbert_hf.analysis.equal_uncertainty import AtEqualUncertainty, at_equal_uncertainty
from fastbert_hf.analysis.exits import Example, ExitDistribution, LayerChanges, SpeedChanges
from fastbert_hf.analysis.movement import UncertaintyStep, uncertainty_steps
from fastbert_hf.analysis.tradeoff import Baseline, Point, Tradeoff, tradeoff
from fastbert_hf.analysis.uncertainty import (
    HeadAccuracy,
    UncertaintyAtSpeed,
    accuracy_by_uncertainty,
    uncertainty_at_speed,
)
from fastbert_hf.analysis.verdict import Verdict, verdict
from fastbert_hf.calibration import CalibratedSetting, ExitRecords, ExitRule
from fastbert_hf.calibration.intervals import share_interval
from fastbert_hf.training.evaluation import scores_of

CONFIDENCE = 0.95
EXAMPLES = 10
# With fewer, easiest and hardest samples are the same ones, and an accuracy is known to 20 points at best.
FEWEST_SAMPLES = 20
# Distributions of uncertainty: without early exits, and at the fastest Speeds.
_SPEEDS_OF_DISTRIBUTIONS = 3


@dataclass(frozen=True)
class Analysis:
    """What early exits do to one model on n samples.

    Attributes:
        samples: n.
        samples_per_class: by class id.
        mean_tokens: of a sample.
        num_layers: L.
        exit_layers: those with an exit head.
        confidence: of all intervals.
        speeds: the marked ones, ascending.
        accuracy_by_uncertainty: of the first, a middle and the last head.
        uncertainty: at Speed 0 and the three highest of `speeds`.
        uncertainty_steps: from each exit head to the next.
        equal_uncertainty: every student against the teacher where both are equally unsure.
        exits: at every one of `speeds`.
        tradeoff: of the model.
        compared: of a second model on the same samples.
        baseline: a bag of words on the same samples, if there is one.
        verdict: what serves these samples best.
        changes_by_layer: if everybody left behind one layer.
        changes_at_speed: at every one of `speeds`.
        middle_speed: the middle one of `speeds`.
        by_class: at the point that leads.
        easiest: samples, at the point that leads.
        hardest: likewise.
    """

    samples: int
    samples_per_class: tuple[int, ...]
    mean_tokens: float
    num_layers: int
    exit_layers: tuple[int, ...]
    confidence: float
    speeds: tuple[float, ...]
    accuracy_by_uncertainty: tuple[HeadAccuracy, ...]
    uncertainty: tuple[UncertaintyAtSpeed, ...]
    uncertainty_steps: tuple[UncertaintyStep, ...]
    equal_uncertainty: tuple[AtEqualUncertainty, ...]
    exits: tuple[ExitDistribution, ...]
    tradeoff: Tradeoff
    compared: Tradeoff | None
    baseline: Baseline | None
    verdict: Verdict
    changes_by_layer: tuple[LayerChanges, ...]
    changes_at_speed: tuple[SpeedChanges, ...]
    middle_speed: float
    by_class: ByClass
    easiest: list[Example]
    hardest: list[Example]

    @property
    def leading(self) -> Point:
        """What the model will run with, as far as is known: its calibrated setting, or else the middle Speed."""
        at_middle = next(point for point in self.tradeoff.speeds if point.value == self.middle_speed)
        return self.tradeoff.calibrated or at_middle


def check_model(exit_layers: Sequence[int], multi_label: bool) -> None:
    """Raise `ValueError` for a model that has nothing to analyze."""
    if multi_label:
        raise ValueError(
            "a multi-label model has no single prediction that an early exit keeps or changes, so accuracy by "
            "uncertainty and by exit is not defined for it; analyze a model that gives a text exactly one class"
        )
    if len(exit_layers) < 2:
        raise ValueError(
            f"the model has no student classifiers (exit_layers is {list(exit_layers)}), so no text leaves early; "
            "analyze a model with exit heads behind earlier layers"
        )


def check_samples(labels: Sequence[int], class_names: Sequence[str]) -> None:
    """Raise `ValueError` for samples, given by their class ids, that say too little."""
    if len(labels) < FEWEST_SAMPLES:
        raise ValueError(
            f"{len(labels)} rows are too few for an analysis; use at least {FEWEST_SAMPLES}, better some hundreds"
        )
    if len(set(labels)) == 1:
        raise ValueError(
            f"all {len(labels)} rows have the class {class_names[labels[0]]!r}, so accuracy says nothing about the "
            "other classes; analyze rows of every class"
        )


def analyze(
    records: ExitRecords,
    speeds: Sequence[float],
    *,
    setting: CalibratedSetting | None = None,
    compared: ExitRecords | None = None,
    compared_setting: CalibratedSetting | None = None,
    bag: BagAnswers | None = None,
    class_names: Sequence[str] | None = None,
) -> Analysis:
    """Every figure; times come in with `Tradeoff.timed`.

    Args:
        records: of the model.
        speeds: to look at, ascending, at least one, each in [0, 1].
        setting: of the model, if it has one.
        compared: the same samples recorded with a second model.
        compared_setting: of that model, if it has one.
        bag: what a bag of words answers for the same samples.
        class_names: in the order of their ids; `None`: the ids.
    """
    distributions = (0.0, *[speed for speed in speeds if speed > 0][-_SPEEDS_OF_DISTRIBUTIONS:])
    middle = speeds[len(speeds) // 2]
    leading = ExitRule.one_speed(records.student_layers, middle) if setting is None else setting.rule
    easiest, hardest = exits.easiest_and_hardest(records, leading, EXAMPLES)
    other = None
    if compared is not None:
        other = tradeoff(compared, speeds, CONFIDENCE, setting=compared_setting, baseline=records)
    return Analysis(
        samples=len(records),
        samples_per_class=tuple(np.bincount(records.known_labels.numpy(), minlength=records.shape.num_labels).tolist()),
        mean_tokens=float(records.lengths.double().mean()),
        num_layers=records.shape.num_layers,
        exit_layers=records.exit_layers,
        confidence=CONFIDENCE,
        speeds=tuple(speeds),
        accuracy_by_uncertainty=accuracy_by_uncertainty(records, CONFIDENCE),
        uncertainty=tuple(uncertainty_at_speed(records, speed) for speed in distributions),
        uncertainty_steps=uncertainty_steps(records),
        equal_uncertainty=at_equal_uncertainty(records),
        exits=tuple(exits.exit_distribution(records, speed) for speed in speeds),
        tradeoff=tradeoff(records, speeds, CONFIDENCE, setting=setting),
        compared=other,
        baseline=None if bag is None else _baseline(records, bag),
        verdict=verdict(
            records,
            rule=None if setting is None else setting.rule,
            bag=None if bag is None else bag.predictions,
        ),
        changes_by_layer=exits.changes_by_layer(records),
        changes_at_speed=tuple(exits.changes_at_speed(records, speed) for speed in speeds),
        middle_speed=middle,
        by_class=by_class(records, leading, class_names),
        easiest=easiest,
        hardest=hardest,
    )


def _baseline(records: ExitRecords, bag: BagAnswers) -> Baseline:
    right = int((bag.predictions == records.known_labels.numpy()).sum())
    interval = share_interval(right, len(records), CONFIDENCE)
    scores = scores_of(torch.from_numpy(bag.predictions), records.known_labels, records.shape.num_labels)
    return Baseline(bag.unit, bag.trained_on, right / len(records), interval, scores["macro_f1"])

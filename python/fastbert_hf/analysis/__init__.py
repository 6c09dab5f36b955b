"""Analyses of early exits (Liu et al. 2020, section 4): figures from recorded exits, charts, and a page with all of it.

`analyze` computes every figure from `ExitRecords`; `charts`, `tradeoff_charts` and `page` show them and need matplotlib
and Jinja2 (extra `demo`).
"""

from __future__ import annotations

from fastbert_hf.analysis.analyzing import Analysis, analyze, check_model, check_samples
from fastbert_hf.analysis.bag_of_words import BagAnswers, BagOfWords, train_bag_of_words
from fastbert_hf.analysis.classes import ByClass, by_class
from fastbert_hf.analysis.equal_uncertainty import AtEqualUncertainty, Difference, at_equal_uncertainty
from fastbert_hf.analysis.exits import (
    Changes,
    Example,
    ExitDistribution,
    LayerChanges,
    SpeedChanges,
    changes_at_speed,
    changes_by_layer,
    easiest_and_hardest,
    exit_distribution,
)
from fastbert_hf.analysis.movement import UncertaintyStep, uncertainty_steps
from fastbert_hf.analysis.static_depth import cut_to_depth
from fastbert_hf.analysis.tradeoff import Baseline, Key, Point, Tradeoff, WallClock, tradeoff
from fastbert_hf.analysis.uncertainty import (
    HeadAccuracy,
    LayerUncertainty,
    UncertaintyAtSpeed,
    UncertaintyInterval,
    accuracy_by_uncertainty,
    uncertainty_at_speed,
)
from fastbert_hf.analysis.verdict import Verdict, verdict

__all__ = [
    "Analysis",
    "AtEqualUncertainty",
    "BagAnswers",
    "BagOfWords",
    "Baseline",
    "ByClass",
    "Changes",
    "Difference",
    "Example",
    "ExitDistribution",
    "HeadAccuracy",
    "Key",
    "LayerChanges",
    "LayerUncertainty",
    "Point",
    "SpeedChanges",
    "Tradeoff",
    "UncertaintyAtSpeed",
    "UncertaintyInterval",
    "UncertaintyStep",
    "Verdict",
    "WallClock",
    "accuracy_by_uncertainty",
    "analyze",
    "at_equal_uncertainty",
    "by_class",
    "changes_at_speed",
    "changes_by_layer",
    "check_model",
    "check_samples",
    "cut_to_depth",
    "easiest_and_hardest",
    "exit_distribution",
    "tradeoff",
    "train_bag_of_words",
    "uncertainty_at_speed",
    "uncertainty_steps",
    "verdict",
]

"""Class by class, at one way to leave: scores, and which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastbert_hf.by_class import ClassScores, confusion, scores_by_class
from fastbert_hf.calibration import ExitRecords, ExitRule, simulate


@dataclass(frozen=True)
class ByClass:
    """Scores of every class, in the order of their ids.

    Attributes:
        full_depth: at full depth.
        at_exits: at the exits of the rule.
        confusion: how many texts of each class (rows) are answered as each class (columns) at these exits.
    """

    full_depth: tuple[ClassScores, ...]
    at_exits: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]


def by_class(records: ExitRecords, rule: ExitRule, names: Sequence[str] | None = None) -> ByClass:
    """Return what `rule` does to every class.

    Args:
        records: labelled samples.
        rule: when they leave.
        names: of the classes; `None`: their ids.
    """
    names = [str(number) for number in range(records.shape.num_labels)] if names is None else names
    labels, depth, result = records.known_labels, records.shape.num_layers, simulate(records, rule)
    answers = torch.from_numpy(result.predictions)
    whole, first = torch.full((len(records),), depth), min(1, records.exit_layers[0])  # 0 with exit zero
    return ByClass(
        full_depth=tuple(scores_by_class(labels, records.predictions[:, -1], whole, names, depth, first)),
        at_exits=tuple(scores_by_class(labels, answers, torch.from_numpy(result.exit_layers), names, depth, first)),
        confusion=tuple(map(tuple, confusion(labels, answers, len(names)).tolist())),
    )

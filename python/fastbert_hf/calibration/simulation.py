"""What an exit rule does to recorded samples: exit layers, accuracy and FLOPs, without running the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fastbert_hf.calibration.records import ExitRecords
from fastbert_hf.exits.rule import CriterionName, ExitRule
from fastbert_hf.exits.uncertainty import normalised_entropy, uncertainty_by
from fastbert_hf.flops import ModelShape, executed_flops, full_depth_flops

Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Simulation:
    """What an exit rule does on n recorded samples.

    Attributes:
        exit_layers: int64 [n], in 1..L.
        predictions: int64 [n], class ids at the exit.
        accuracy: part of the samples whose prediction at the exit is the label.
        drop: accuracy at full depth less `accuracy`; negative when early exits help.
        flops_speedup: FLOPs at full depth over FLOPs executed, heads that are not asked costing nothing.
        mean_exit_layer: mean of `exit_layers`.
    """

    exit_layers: Integers
    predictions: Integers
    accuracy: float
    drop: float
    flops_speedup: float
    mean_exit_layer: float


def simulate(records: ExitRecords, rule: ExitRule) -> Simulation:
    """Apply `rule` to `records`; FLOPs are counted in the paper's convention (`fastbert_hf.flops`).

    Raises:
        ValueError: the rule names layers without a student classifier.
    """
    return measure(records, rule.layers, exit_heads(records, rule))


def measure(records: ExitRecords, layers: tuple[int, ...], exits: Integers) -> Simulation:
    """What it does when every sample leaves at its exit head, `exits` [n], and the heads at `layers` are asked."""
    rows = np.arange(len(records))
    accuracy = float(records.right[rows, exits].mean())
    exit_layers = np.asarray(records.exit_layers, dtype=np.int64)[exits]
    lengths = records.lengths.numpy()
    full = int(full_depth_flops(records.shape, lengths).sum())
    return Simulation(
        exit_layers=exit_layers,
        predictions=records.predictions.numpy()[rows, exits],
        accuracy=accuracy,
        drop=records.full_depth_accuracy - accuracy,
        flops_speedup=full / executed_flops(shape_with_heads(records.shape, layers), exit_layers, lengths),
        mean_exit_layer=float(exit_layers.mean()),
    )


def exit_heads(records: ExitRecords, rule: ExitRule) -> Integers:
    """Index in 0..E-1 of the exit head at which every sample leaves, [n]."""
    asked = indices_of(records, rule.layers)
    if rule.criterion == "patience":
        leaves = streaks(records, rule.layers) >= rule.patience
    else:
        # float32 on both sides, as the model compares; False for NaN.
        leaves = uncertainties(records, rule.criterion, rule.top_k)[:, asked] < np.asarray(
            rule.speeds, dtype=np.float32
        )
    return first_exits(leaves, asked, len(records.exit_layers))


def first_exits(leaves: npt.NDArray[np.bool_], asked: list[int], num_heads: int) -> Integers:
    """Index of the first of the heads `asked` that lets a sample leave, `leaves` [n, len(asked)], else of the last."""
    every = np.zeros((len(leaves), num_heads), dtype=bool)
    every[:, asked] = leaves
    every[:, -1] = True
    return every.argmax(axis=1)  # the first of equal maxima


def uncertainties(records: ExitRecords, criterion: CriterionName, top_k: int = 2) -> Floats:
    """What Speed is compared with, float32 [n, E]; NaN where the logits are not finite.

    Raises:
        ValueError: "patience", which compares nothing with Speed.
    """
    if criterion == "patience":
        raise ValueError(f"{criterion} has no uncertainty to compare with Speed")
    return uncertainty_by(records.logits, criterion, top_k).numpy()


def streaks(records: ExitRecords, layers: tuple[int, ...]) -> Integers:
    """How many of the heads at `layers`, up to and with each of them, predicted the same class in a row.

    A head with non-finite logits predicts nothing: its streak is 0, and the next head's begins anew.

    Returns:
        int64 [n, len(layers)].
    """
    asked = indices_of(records, layers)
    unknown = np.isnan(normalised_entropy(records.logits).numpy())[:, asked]
    predictions = np.where(unknown, -1, records.predictions.numpy()[:, asked])
    result = np.ones_like(predictions)
    for column in range(1, len(asked)):
        same = predictions[:, column] == predictions[:, column - 1]
        result[:, column] = np.where(same, result[:, column - 1] + 1, 1)
    return np.where(unknown, 0, result)


def indices_of(records: ExitRecords, layers: tuple[int, ...]) -> list[int]:
    """Where the student classifiers of `layers` stand among the exit heads."""
    unknown = [layer for layer in layers if layer not in records.student_layers]
    if unknown:
        raise ValueError(
            f"layers {unknown} have no student classifier; those of this model are at {list(records.student_layers)}"
        )
    return [records.student_layers.index(layer) for layer in layers]


def shape_with_heads(shape: ModelShape, layers: tuple[int, ...]) -> ModelShape:
    """`shape` with student classifiers at `layers` only."""
    return replace(shape, exit_layers=(*layers, shape.num_layers))

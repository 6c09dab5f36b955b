"""What an exit rule does to recorded samples: exit layers, accuracy and FLOPs, without running the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fastbert_hf.by_class import macro_f1
from fastbert_hf.calibration.records import ExitRecords
from fastbert_hf.exits.criteria import criteria_for, criterion_of
from fastbert_hf.exits.decision import ExitDecision, below_speed, first_heads
from fastbert_hf.exits.resolution import resolve_speed
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.flops import executed_flops, full_depth_flops

Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Simulation:
    """What an exit rule does on n recorded samples.

    Attributes:
        exit_layers: int64 [n], in 1..L, or 0 at exit zero.
        predictions: int64 [n], class ids at the exit; of a multi-label model bool [n, N]; of one with one output its
            scores, float32 [n].
        accuracy: part of the samples whose answer at the exit is right (`ExitRecords` says when).
        drop: accuracy at full depth less `accuracy`; negative when early exits help.
        flops_speedup: FLOPs at full depth over FLOPs executed, heads that are not asked costing nothing.
        mean_exit_layer: mean of `exit_layers`.
    """

    exit_layers: Integers
    predictions: npt.NDArray[np.generic]
    accuracy: float
    drop: float
    flops_speedup: float
    mean_exit_layer: float


def simulate(records: ExitRecords, rule: ExitRule) -> Simulation:
    """Apply `rule` to `records`, and return what it does; FLOPs in the paper's convention (`fastbert_hf.flops`).

    Raises:
        ValueError: the rule names layers without a student classifier.
    """
    return measure(records, rule.layers, exit_heads(records, rule))


def measure(records: ExitRecords, layers: tuple[int, ...], exits: Integers) -> Simulation:
    """Return what comes of every sample leaving at a head of its own.

    Args:
        records: the samples.
        layers: where student classifiers are asked.
        exits: index in 0..E-1 of the head at which each sample leaves, [n].
    """
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
        flops_speedup=full / executed_flops(records.shape.asking(layers), exit_layers, lengths),
        mean_exit_layer=float(exit_layers.mean()),
    )


def classes_of(records: ExitRecords, answers: torch.Tensor) -> torch.Tensor:
    """Return which classes the answers of one head for each sample name, bool [n, N].

    Args:
        records: of the samples.
        answers: class ids, int64 [n]; of a multi-label model bool [n, N].
    """
    return answers if records.multi_label else answers[:, None] == torch.arange(records.shape.num_labels)


def macro_f1_of(records: ExitRecords, answers: npt.NDArray[np.generic]) -> float:
    """Return the macro F1 of answers to samples with labels.

    Args:
        records: of the samples.
        answers: class ids, int64 [n].

    Raises:
        ValueError: there are no labels.
    """
    return macro_f1(classes_of(records, records.known_labels), classes_of(records, torch.from_numpy(answers)))


def exit_heads(records: ExitRecords, rule: ExitRule) -> Integers:
    """Return the index in 0..E-1 of the exit head at which every sample leaves, [n].

    Raises:
        ValueError: the rule names layers without a student classifier.
    """
    indices_of(records, rule.layers)
    speed = resolve_speed(
        rule,
        batch_size=len(records),
        device="cpu",
        exit_layers=records.exit_layers,
        problem_type=records.problem_type,
    )
    return ExitDecision(speed).first_exits(records.exit_layers, records.logits).numpy()


def first_exits(leaves: npt.NDArray[np.bool_], asked: list[int], num_heads: int) -> Integers:
    """Return which head lets each sample go first, index in 0..E-1, [n].

    Args:
        leaves: bool [n, len(asked)], whether the head lets the sample go.
        asked: indices of the heads that are asked; the last head lets everybody go.
        num_heads: E.
    """
    every = np.zeros((len(leaves), num_heads), dtype=bool)
    every[:, asked] = leaves
    return first_heads(torch.from_numpy(every)).numpy()


def below(uncertainty: Floats, speed: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return who leaves at Speeds in float64, which are compared in float32; both are broadcast."""
    return below_speed(uncertainty, np.asarray(speed, dtype=np.float32))


def uncertainties(
    records: ExitRecords, criterion: str, parameter: int = 0, layers: tuple[int, ...] | None = None
) -> Floats:
    """Return what Speed is compared with, float32 [n, heads]; NaN where the logits are not finite.

    Args:
        records: the samples.
        criterion: one that compares with Speed.
        parameter: the number that belongs to it.
        layers: of the student classifiers that are asked, whose columns stand before that of the teacher classifier;
            `None` for all. "stability" compares each with the one before it among them.

    Raises:
        ValueError: a criterion that compares nothing with Speed ("patience"), or as `criterion_of`.
    """
    known = criterion_of(criterion, parameter)
    if not known.compares_speed:
        raise ValueError(f"{criterion} has no uncertainty to compare with Speed")
    if criterion not in criteria_for(records.problem_type):
        raise ValueError(f"{criterion} is for models of the problem_type {known.problem_type}, which these are not")
    asked = indices_of(records, records.student_layers if layers is None else layers)
    return known.of_all_heads(records.logits[:, [*asked, -1]], parameter).numpy()


def indices_of(records: ExitRecords, layers: tuple[int, ...]) -> list[int]:
    """Return where the student classifiers of `layers` stand among the exit heads."""
    unknown = [layer for layer in layers if layer not in records.student_layers]
    if unknown:
        raise ValueError(
            f"layers {unknown} have no student classifier; those of this model are at {list(records.student_layers)}"
        )
    return [records.student_layers.index(layer) for layer in layers]

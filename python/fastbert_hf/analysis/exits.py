"""Where samples leave, what leaving early changes, and which samples are easy and hard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastbert_hf.calibration import ExitRecords, ExitRule
from fastbert_hf.calibration.simulation import exit_heads, uncertainties


@dataclass(frozen=True)
class ExitDistribution:
    """Where samples leave at one Speed for all layers.

    Attributes:
        speed: in [0, 1].
        layers: those with an exit head, ascending.
        samples: how many leave behind each of `layers`.
        mean: exit layer.
        median: exit layer; half way between two when the middle lies between them.
    """

    speed: float
    layers: tuple[int, ...]
    samples: tuple[int, ...]
    mean: float
    median: float


@dataclass(frozen=True)
class Changes:
    """Samples whose prediction at an earlier exit and at the last layer differ in being right.

    Attributes:
        wrong_then_right: wrong at the exit, right at the last layer: what leaving there costs.
        right_then_wrong: right at the exit, wrong at the last layer: what leaving there gains.
    """

    wrong_then_right: int
    right_then_wrong: int


@dataclass(frozen=True)
class LayerChanges:
    """`Changes` if every sample left behind one layer."""

    layer: int
    changes: Changes


@dataclass(frozen=True)
class SpeedChanges:
    """`Changes` of what actually leaves at one Speed.

    Attributes:
        speed: in [0, 1].
        leaving: `Changes` among the samples that leave behind each student classifier, first to last.
        total: their sum.
    """

    speed: float
    leaving: tuple[LayerChanges, ...]
    total: Changes


@dataclass(frozen=True)
class Example:
    """One sample at one Speed.

    Attributes:
        row: position in the records, from 0.
        exit_layer: 1..L.
        uncertainty: entropy at the exit, in [0, 1], whatever the criterion; `None` when it is not known.
        label: class id.
        prediction: class id.
    """

    row: int
    exit_layer: int
    uncertainty: float | None
    label: int
    prediction: int


def exit_distribution(records: ExitRecords, speed: float) -> ExitDistribution:
    """Count where samples leave at `speed` (Liu et al. 2020, figure 5)."""
    exits = _exits(records, speed)
    layers = np.asarray(records.exit_layers)[exits]
    return ExitDistribution(
        speed=speed,
        layers=records.exit_layers,
        samples=tuple(np.bincount(exits, minlength=len(records.exit_layers)).tolist()),
        mean=float(layers.mean()),
        median=float(np.median(layers)),
    )


def changes_by_layer(records: ExitRecords) -> tuple[LayerChanges, ...]:
    """For every student classifier, what the layers behind it correct and spoil; over all samples."""
    return tuple(
        LayerChanges(layer, _changes(records.right[:, head], records.right[:, -1]))
        for head, layer in enumerate(records.student_layers)
    )


def changes_at_speed(records: ExitRecords, speed: float) -> SpeedChanges:
    """Count what the last layer would have changed in the predictions of the samples that leave early at `speed`."""
    exits = _exits(records, speed)
    at_exit = records.right[np.arange(len(records)), exits]
    leaving = []
    for head, layer in enumerate(records.student_layers):
        here = exits == head
        leaving.append(LayerChanges(layer, _changes(at_exit[here], records.right[here, -1])))
    return SpeedChanges(speed, tuple(leaving), _changes(at_exit, records.right[:, -1]))


def easiest_and_hardest(records: ExitRecords, rule: ExitRule, number: int) -> tuple[list[Example], list[Example]]:
    """The samples that leave first, surest first, and those that leave last, least sure first.

    Args:
        records: the samples.
        rule: when samples leave.
        number: of samples in each of the two; no sample is in both when there are 2 `number` or more.
    """
    exits = exit_heads(records, rule)
    every = np.arange(len(records))
    layers = np.asarray(records.exit_layers)[exits]
    uncertainty = uncertainties(records, "entropy")[every, exits]
    predictions = records.predictions.numpy()[every, exits]
    known = np.isfinite(uncertainty)
    order = np.lexsort((every, np.where(known, uncertainty, np.inf), layers))

    def example(row: int) -> Example:
        return Example(
            row=row,
            exit_layer=int(layers[row]),
            uncertainty=float(uncertainty[row]) if known[row] else None,
            label=int(records.known_labels[row]),
            prediction=int(predictions[row]),
        )

    easiest, hardest = order[:number].tolist(), order[::-1][:number].tolist()
    return [example(row) for row in easiest], [example(row) for row in hardest]


def _exits(records: ExitRecords, speed: float) -> npt.NDArray[np.int64]:
    return exit_heads(records, ExitRule.one_speed(records.student_layers, speed))


def _changes(at_exit: npt.NDArray[np.bool_], at_last: npt.NDArray[np.bool_]) -> Changes:
    return Changes(
        wrong_then_right=int((~at_exit & at_last).sum()),
        right_then_wrong=int((at_exit & ~at_last).sum()),
    )

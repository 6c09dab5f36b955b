"""Accuracy against speed-up: one Speed for all layers, static models of fewer layers, and a calibrated setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from fastbert_hf.analysis.bag_of_words import Unit
from fastbert_hf.calibration import CalibratedSetting, ExitRecords, ExitRule, SpeedCurve, simulate, speed_curve
from fastbert_hf.calibration.intervals import share_interval
from fastbert_hf.flops import first_layers_flops, full_depth_flops
from fastbert_hf.training.evaluation import scores_of

FASTEST_SHOWN = 64  # speed-up that a chart ends at; exit zero alone costs next to nothing
Kind: TypeAlias = Literal["speed", "depth", "calibrated"]
# `kind` and `value` of a `Point`.
Key: TypeAlias = tuple[Kind, float | None]


@dataclass(frozen=True)
class WallClock:
    """Measured time.

    Attributes:
        milliseconds_per_text: median of the rounds.
        speedup: over the analyzed model at full depth; median of the ratios within a round.
        speedup_rounds: that ratio in every round.
    """

    milliseconds_per_text: float
    speedup: float
    speedup_rounds: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """One way to run a model.

    Attributes:
        kind: "speed": one Speed for all layers; "depth": the head behind one layer answers for every sample, and
            neither the layers behind it nor the other heads run; "calibrated": the setting of the model.
        value: the Speed or the layer; `None` for the calibrated setting.
        accuracy: part of the samples that are predicted right.
        accuracy_interval: of Clopper and Pearson.
        macro_f1: mean over the classes of their F1.
        mean_exit_layer: layers executed per sample.
        flops_speedup: FLOPs of the analyzed model at full depth over FLOPs executed, paper's convention.
        wall_clock: `None` when it was not measured.
    """

    kind: Kind
    value: float | None
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    mean_exit_layer: float
    flops_speedup: float
    wall_clock: WallClock | None = None


@dataclass(frozen=True)
class Baseline:
    """A bag of words: one way to do without the model.

    Attributes:
        unit: what it counts, "words" or "characters".
        trained_on: texts.
        accuracy: part of the samples that are predicted right.
        accuracy_interval: of Clopper and Pearson.
        macro_f1: mean over the classes of their F1.
        wall_clock: `None` when it was not measured.
    """

    unit: Unit
    trained_on: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    wall_clock: WallClock | None = None


@dataclass(frozen=True)
class Tradeoff:
    """What one model can do.

    Attributes:
        curve: every Speed.
        speeds: the marked Speeds, ascending.
        depths: static models, one for every layer that has an exit head; the last is full depth.
        calibrated: the setting of the model, if it has one.
    """

    curve: SpeedCurve
    speeds: tuple[Point, ...]
    depths: tuple[Point, ...]
    calibrated: Point | None

    @property
    def full_depth(self) -> Point:
        """All layers, and the teacher classifier alone."""
        return self.depths[-1]

    def timed(self, times: Mapping[Key, WallClock]) -> Tradeoff:
        """The same with what was measured."""

        def add(point: Point) -> Point:
            return replace(point, wall_clock=times.get((point.kind, point.value)))

        return replace(
            self,
            speeds=tuple(map(add, self.speeds)),
            depths=tuple(map(add, self.depths)),
            calibrated=None if self.calibrated is None else add(self.calibrated),
        )


def tradeoff(
    records: ExitRecords,
    speeds: Sequence[float],
    confidence: float,
    *,
    setting: CalibratedSetting | None = None,
    baseline: ExitRecords | None = None,
) -> Tradeoff:
    """Accuracy and FLOPs of a model on its recorded samples (Liu et al. 2020, section 4.3 and figure 2).

    Args:
        records: the samples.
        speeds: the ones to mark, ascending, in [0, 1].
        confidence: of the intervals, in (0, 1).
        setting: of the model, if it has one.
        baseline: the same samples recorded with the model whose full depth has a speed-up of 1; `None`: `records`.
    """
    baseline = records if baseline is None else baseline
    base = _full_depth_total(baseline)
    scale = base / _full_depth_total(records)
    curve = speed_curve(records)

    def of_rule(kind: Kind, value: float | None, rule: ExitRule) -> Point:
        result = simulate(records, rule)
        right = round(result.accuracy * len(records))
        interval = share_interval(right, len(records), confidence)
        return Point(
            kind,
            value,
            accuracy=result.accuracy,
            accuracy_interval=interval,
            macro_f1=_macro_f1(records, torch.from_numpy(result.predictions)),
            mean_exit_layer=result.mean_exit_layer,
            flops_speedup=scale * result.flops_speedup,
        )

    return Tradeoff(
        curve=replace(curve, flops_speedup=tuple(scale * speedup for speedup in curve.flops_speedup)),
        speeds=tuple(of_rule("speed", speed, ExitRule.one_speed(records.student_layers, speed)) for speed in speeds),
        depths=tuple(
            _static(records, head, base, confidence) for head, layer in enumerate(records.exit_layers) if layer > 0
        ),
        calibrated=None if setting is None else of_rule("calibrated", None, setting.rule),
    )


def _static(records: ExitRecords, head: int, base: int, confidence: float) -> Point:
    layer, lengths = records.exit_layers[head], records.lengths.numpy()
    flops = int(first_layers_flops(records.shape, layer, lengths).sum())
    right = int(records.right[:, head].sum())
    return Point(
        kind="depth",
        value=layer,
        accuracy=right / len(records),
        accuracy_interval=share_interval(right, len(records), confidence),
        macro_f1=_macro_f1(records, records.predictions[:, head]),
        mean_exit_layer=float(layer),
        flops_speedup=base / flops,
    )


def _macro_f1(records: ExitRecords, predictions: torch.Tensor) -> float:
    return scores_of(predictions, records.known_labels, records.shape.num_labels)["macro_f1"]


def _full_depth_total(records: ExitRecords) -> int:
    return int(full_depth_flops(records.shape, records.lengths.numpy()).sum())

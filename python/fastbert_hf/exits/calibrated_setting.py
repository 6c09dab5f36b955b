"""The setting that a calibration ends with, saved beside the model."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastbert_hf.beside import file_beside_weights
from fastbert_hf.exits.fingerprint import is_of, model_fingerprint
from fastbert_hf.exits.plain_values import made_from
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.files import write_atomically

SETTING_FILE = "fastbert_calibration.json"
_FORMAT = 7
# Format 1 had no latency, as a target or measured; formats 1 and 2 had a `top_k` and a `patience` for each criterion;
# format 3 had no precision; format 4 nothing about answers other than full depth's, and how many samples left where;
# format 5 nothing of models with one output; format 6 nothing of F1.
_READABLE = (1, 2, 3, 4, 5, 6, _FORMAT)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Objective:
    """The target of a calibration: exactly one of the first five, and for a model with one output the last one, too.

    Attributes:
        max_drop: accuracy that may be lost against full depth, in [0, 1), for which the fastest rule is searched.
        max_disagreement: part of the samples whose answer may be another than full depth's, in [0, 1), for which the
            fastest rule is searched. Needs no labels.
        max_f1_drop: by which the F1 of any class may fall, and so macro F1 too, in (0, 1), for which the fastest Speed
            is searched.
        min_speedup: FLOPs speed-up to reach, above 0, for which the most accurate rule is searched.
        max_latency_ms: milliseconds per text, above 0, on the machine that calibrates; also for the most accurate rule.
        max_score_change: of a model with one output, how far the score may be from full depth's and still be the same
            answer; above 0, on the scale of the score. It says what disagreement is where there are no classes.

    Raises:
        ValueError: none or several are given, or one is out of range.
    """

    max_drop: float | None = None
    max_disagreement: float | None = None
    max_f1_drop: float | None = None
    min_speedup: float | None = None
    max_latency_ms: float | None = None
    max_score_change: float | None = None

    def __post_init__(self) -> None:
        targets = (self.max_drop, self.max_disagreement, self.max_f1_drop, self.min_speedup, self.max_latency_ms)
        given = sum(target is not None for target in targets)
        if given == 0 and self.max_score_change is not None:
            raise ValueError(
                "max_score_change says from where on a score is another answer; say how many may be, too: "
                "max_disagreement=0.01"
            )
        if given != 1:
            raise ValueError(
                "ask for exactly one of max_drop, max_disagreement, max_f1_drop, min_speedup and max_latency_ms"
            )
        check_score_change(self.max_score_change)
        for name in ("max_drop", "max_f1_drop"):
            if self.max_score_change is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} is about labels, which a score has none of; use max_disagreement")
        for name in ("max_drop", "max_disagreement"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} is a part of the samples, in [0, 1); got {value} (1 % is 0.01)")
        if self.max_f1_drop is not None and not 0 < self.max_f1_drop < 1:
            raise ValueError(f"max_f1_drop is a difference of F1, in (0, 1); got {self.max_f1_drop} (a point is 0.01)")
        if self.min_speedup is not None and not self.min_speedup > 0:
            raise ValueError(f"min_speedup must be above 0, got {self.min_speedup}")
        if self.max_latency_ms is not None and not 0 < self.max_latency_ms < math.inf:
            raise ValueError(f"max_latency_ms must be above 0, got {self.max_latency_ms}")

    @property
    def max_risk(self) -> float | None:
        """Return the part of the samples that may be lost, of a target that comes with a guarantee."""
        return self.max_drop if self.max_disagreement is None else self.max_disagreement


def check_score_change(value: float | None) -> None:
    """Raise `ValueError` for what cannot be the distance from which on a score is another answer."""
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"max_score_change is a distance between scores, above 0; got {value:g}")


@dataclass(frozen=True)
class SpeedCurve:
    """Accuracy and FLOPs speed-up (paper's convention) of one Speed for all layers, at ascending Speeds.

    A higher Speed lets every sample leave at the same layer or an earlier one, so `flops_speedup` never falls. Of
    samples without labels the accuracy is the part whose answer is that of full depth.

    Raises:
        ValueError: no points, or values that do not fit this.
    """

    speeds: tuple[float, ...]
    accuracy: tuple[float, ...]
    flops_speedup: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.speeds) == len(self.accuracy) == len(self.flops_speedup) >= 1:
            raise ValueError("the curve must have a Speed, an accuracy and a speed-up at each of its points")
        for name, values in (("speeds", self.speeds), ("flops_speedup", self.flops_speedup)):
            if any(second < first for first, second in itertools.pairwise(values)):
                raise ValueError(f"the curve's {name} must not fall")
        in_range = all(0 <= speed < math.inf for speed in self.speeds) and all(0 <= one <= 1 for one in self.accuracy)
        if not in_range or self.flops_speedup[0] <= 0:
            raise ValueError(
                "Speeds of the curve must be at least 0 and finite, accuracies lie in [0, 1], and speed-ups above 0"
            )

    def speed_for_speedup(self, flops_speedup: float) -> float:
        """Return the Speed whose FLOPs speed-up on the recorded samples is `flops_speedup`.

        It is the knob that means the same on every task (future work in the conclusion of Liu et al. 2020). Between
        two Speeds of the curve it is interpolated linearly, so it rises with `flops_speedup`. Where many samples share
        one uncertainty the speed-up jumps, and no Speed gives exactly what lies inside the jump.

        Raises:
            ValueError: a speed-up that no Speed of the curve reaches, or NaN.
        """
        slowest, fastest = self.flops_speedup[0], self.flops_speedup[-1]
        if not slowest <= flops_speedup <= fastest:
            raise ValueError(
                f"no Speed gives a FLOPs speed-up of {flops_speedup:g} on the samples of the calibration; "
                f"choose one from {slowest:.3g} to {fastest:.3g}"
            )
        # Of Speeds with the same speed-up the lowest, the most careful one.
        speedups, first = np.unique(np.asarray(self.flops_speedup), return_index=True)
        return float(np.interp(flops_speedup, speedups, np.asarray(self.speeds)[first]))


@dataclass(frozen=True)
class Figures:
    """Figures of the rule on the samples of the evidence.

    The intervals are two-sided at the confidence of the evidence, each for itself, and do not account for the rule
    having been chosen with the same samples. What holds in spite of that is `Evidence.guarantee`.

    Attributes:
        full_depth_accuracy: part of the samples that full depth predicts right. `None` without labels, as the three
            that follow.
        accuracy: the same at the rule's exits.
        accuracy_interval: Clopper-Pearson.
        drop: `full_depth_accuracy` less `accuracy`.
        flops_speedup: FLOPs at full depth over FLOPs executed, paper's convention.
        flops_speedup_interval: approximate.
        mean_exit_layer: layers executed per sample.
        disagreement: part of the samples whose answer at the rule's exit is another than full depth's; of a multi-label
            model in any class, of a model with one output further away than `Objective.max_score_change`. `None` in a
            setting of before, as what follows.
        disagreement_interval: Clopper-Pearson.
        exit_counts: how many samples left after each layer, [L]; of a model with exit zero [L + 1], from layer 0 on.
        class_counts: how many samples full depth gives each class, [N]; `None` for a model with one output.
        class_losses: how many of them do not have that class at the rule's exit, [N]; `None` as before.
        mean_score_change: mean of |score at the rule's exit - score at full depth|, of a model with one output; of the
            samples for which it is finite, 0 where it is for none.
        largest_score_change: the largest of these.
        full_depth_macro_f1: mean over the classes of their F1 at full depth; `None` without labels and in a setting of
            before, as is the next.
        macro_f1: the same at the rule's exits.
    """

    full_depth_accuracy: float | None
    accuracy: float | None
    accuracy_interval: Interval | None
    drop: float | None
    flops_speedup: float
    flops_speedup_interval: Interval
    mean_exit_layer: float
    disagreement: float | None = None
    disagreement_interval: Interval | None = None
    exit_counts: tuple[int, ...] | None = None
    class_counts: tuple[int, ...] | None = None
    class_losses: tuple[int, ...] | None = None
    mean_score_change: float | None = None
    largest_score_change: float | None = None
    full_depth_macro_f1: float | None = None
    macro_f1: float | None = None

    def __post_init__(self) -> None:
        if min((0, *(self.exit_counts or ()), *(self.class_counts or ()), *(self.class_losses or ()))) < 0:
            raise ValueError("exit_counts, class_counts and class_losses count samples, and must not be below 0")
        if len(self.class_counts or ()) != len(self.class_losses or ()):
            raise ValueError("class_counts and class_losses must be of the same classes")


@dataclass(frozen=True)
class Evidence:
    """Reasons to believe the setting.

    Attributes:
        samples: number of samples that the figures are from.
        samples_for_choosing: number of other samples that the rules were chosen with; 0 where they were fixed
            beforehand or chosen with the same samples.
        confidence: in (0, 1).
        method: how the rule was found, in a sentence.
        guarantee: what holds for new samples at this confidence; `None` when nothing is guaranteed.
        p_value: of the test behind the guarantee; `None` without one.
    """

    samples: int
    samples_for_choosing: int
    confidence: float
    method: str
    guarantee: str | None
    p_value: float | None


@dataclass(frozen=True)
class Latency:
    """Measured time of the rule.

    Attributes:
        ms_per_text: mean wall-clock milliseconds.
        full_depth_ms_per_text: the same at full depth, measured in turns with it.
        batch_size: texts per call.
        texts: how many texts were timed.
        machine: what it ran on, in words.
        precision: of the encoder, in words.
    """

    ms_per_text: float
    full_depth_ms_per_text: float
    batch_size: int
    texts: int
    machine: str
    precision: str


@dataclass(frozen=True)
class CalibratedSetting:
    """The way to run one model, with the target, what was found, and the evidence.

    Attributes:
        rule: criterion, the student classifiers that are asked, and their Speeds.
        objective: the target.
        figures: what was found.
        evidence: why to believe it.
        fingerprint: `model_fingerprint` of the model it holds for.
        curve: single Speed, entropy, all heads: the linear knob.
        latency: what was measured, where a latency was the target.
        max_length: tokens at which the samples were cut off; `None` where that is not known.
        precision: of the encoder that answered the samples, as "float32" or "int8"; `None` where that is not known.
    """

    rule: ExitRule
    objective: Objective
    figures: Figures
    evidence: Evidence
    fingerprint: str
    curve: SpeedCurve
    latency: Latency | None = None
    max_length: int | None = None
    precision: str | None = None

    def speed_for_speedup(self, flops_speedup: float) -> float:
        """Return the Speed whose FLOPs speed-up is that; see `SpeedCurve.speed_for_speedup`."""
        return self.curve.speed_for_speedup(flops_speedup)

    def save(self, folder: Path) -> Path:
        """Write `fastbert_calibration.json` into the model's folder, in one step, and return its path."""
        path = folder / SETTING_FILE
        content = {"format": _FORMAT, **asdict(self)}
        write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path) -> CalibratedSetting | None:
        """Return the setting saved in the model's folder; `None` when there is none.

        Raises:
            ValueError: the file is not one that `save` wrote.
        """
        path = folder / SETTING_FILE
        return cls.read(path) if path.exists() else None

    @classmethod
    def read(cls, path: Path) -> CalibratedSetting:
        """Return the setting that is saved in a file of any name.

        Raises:
            ValueError: the file is not one that `save` wrote.
            OSError: it cannot be read.
        """
        if path.is_dir():
            raise ValueError(f"{path} is a folder, not a calibration; take it away, or calibrate again")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content.pop("format")
            if found not in _READABLE:
                raise ValueError(f"not of format {', '.join(map(str, _READABLE))} but {found!r}")
            if found in (1, 2):
                content["rule"] = _with_one_parameter(content["rule"])
            return made_from(cls, content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(f"{path} is not a calibration that can be read ({error}); calibrate again") from error


def find_setting(name_or_path: str | Path | None, model: Any, options: Mapping[str, Any]) -> CalibratedSetting | None:
    """Return the setting saved beside the weights that were just loaded, if it was made for them.

    Args:
        name_or_path: folder or hub name, as given to `from_pretrained`.
        model: the FastBERT model loaded from there.
        options: of that call; those that say where to look are used (`subfolder`, `revision`, `cache_dir`, ...).

    Returns:
        `None` where there is no setting, or with a warning one for other weights.

    Raises:
        ValueError: the file is not one that `CalibratedSetting.save` wrote.
    """
    found = file_beside_weights(name_or_path, SETTING_FILE, options)
    return None if found is None else _for_these_weights(CalibratedSetting.load(found.parent), found, model)


def _for_these_weights(setting: CalibratedSetting | None, found: str | Path, model: Any) -> CalibratedSetting | None:
    if setting is None:
        return None
    if is_of(setting.fingerprint, model):
        model.resolve_speed(setting.rule, None, 1)  # layers that the model has
        return replace(setting, fingerprint=model_fingerprint(model))
    warnings.warn(
        f"{found} was made for other weights than this model has now (it was trained on, or loaded in another dtype or "
        "with another configuration) and is left out: without a Speed every sample runs to full depth. Calibrate again",
        stacklevel=4,
    )
    return None


def _with_one_parameter(rule: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a rule of formats 1 and 2 as they are today."""
    numbers = {"top_k_entropy": rule.pop("top_k"), "patience": rule.pop("patience")}
    return {**rule, "parameter": numbers.get(rule["criterion"], 0)}

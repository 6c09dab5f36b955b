"""The setting that a calibration ends with, saved beside the model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastbert_hf.calibration.curve import SpeedCurve
from fastbert_hf.calibration.search import Objective
from fastbert_hf.calibration.simulation import ExitRule
from fastbert_hf.files import write_atomically

SETTING_FILE = "fastbert_calibration.json"
_FORMAT = 1

Interval = tuple[float, float]


@dataclass(frozen=True)
class Figures:
    """What the rule does on the samples of the evidence.

    The intervals are two-sided at the confidence of the evidence, each for itself, and do not account for the rule
    having been chosen with the same samples. What holds in spite of that is `Evidence.guarantee`.

    Attributes:
        full_depth_accuracy: part of the samples that full depth predicts right.
        accuracy: the same at the rule's exits.
        accuracy_interval: Clopper-Pearson.
        drop: `full_depth_accuracy` less `accuracy`.
        flops_speedup: FLOPs at full depth over FLOPs executed, paper's convention.
        flops_speedup_interval: approximate.
        mean_exit_layer: layers executed per sample.
    """

    full_depth_accuracy: float
    accuracy: float
    accuracy_interval: Interval
    drop: float
    flops_speedup: float
    flops_speedup_interval: Interval
    mean_exit_layer: float


@dataclass(frozen=True)
class Evidence:
    """Why the setting can be believed.

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
class CalibratedSetting:
    """How to run one model, with what was asked for, what was found, and the evidence.

    Attributes:
        rule: criterion, the student classifiers that are asked, and their Speeds.
        objective: what was asked for.
        figures: what was found.
        evidence: why to believe it.
        fingerprint: `model_fingerprint` of the model it holds for.
        curve: single Speed, entropy, all heads: the linear knob.
    """

    rule: ExitRule
    objective: Objective
    figures: Figures
    evidence: Evidence
    fingerprint: str
    curve: SpeedCurve

    def speed_for_speedup(self, flops_speedup: float) -> float:
        """The Speed whose FLOPs speed-up is that; see `SpeedCurve.speed_for_speedup`."""
        return self.curve.speed_for_speedup(flops_speedup)

    def check_model(self, fingerprint: str) -> None:
        """Raise `ValueError` when `fingerprint` is that of another model than the calibrated one."""
        if fingerprint != self.fingerprint:
            raise ValueError(
                "the calibration was made for other weights than this model's (it was trained on, or its dtype or exit "
                "layers changed); calibrate again"
            )

    def save(self, folder: Path) -> Path:
        """Write `fastbert_calibration.json` into the model's folder, in one step, and return its path."""
        path = folder / SETTING_FILE
        content = {"format": _FORMAT, **asdict(self)}
        write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path) -> CalibratedSetting | None:
        """The setting saved in the model's folder; `None` when there is none.

        Raises:
            ValueError: the file is not one that `save` wrote.
        """
        path = folder / SETTING_FILE
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise ValueError(f"not format {_FORMAT}")
            return cls(
                rule=ExitRule(**_with_tuples(content.pop("rule"))),
                objective=Objective(**content.pop("objective")),
                figures=Figures(**_with_tuples(content.pop("figures"))),
                evidence=Evidence(**content.pop("evidence")),
                curve=SpeedCurve(**_with_tuples(content.pop("curve"))),
                **content,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a calibration that can be read ({error}); calibrate again") from error


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}

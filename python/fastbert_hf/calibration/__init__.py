"""Calibration: choosing when samples may leave, from one recorded pass over labelled samples.

`record_exits` runs the model once. From its `ExitRecords`, without the model: `simulate` says what an `ExitRule` does,
`speed_curve` what every Speed does, `compare_criteria` and `pareto_front` search, `certify_one_speed` and
`certify_searched` give a rule with a guarantee, and `calibrate` turns a wish into a `CalibratedSetting`, which is saved
beside the model.
"""

from __future__ import annotations

from fastbert_hf.calibrated_setting import SETTING_FILE, CalibratedSetting, Evidence, Figures, Objective, SpeedCurve
from fastbert_hf.calibration.calibrating import calibrate, figures_of
from fastbert_hf.calibration.curve import speed_curve
from fastbert_hf.calibration.guarantee import Certificate, certify, certify_one_speed, certify_searched
from fastbert_hf.calibration.pareto import ParetoFront, pareto_front
from fastbert_hf.calibration.records import ExitRecords, record_exits
from fastbert_hf.calibration.search import FoundRule, best_rule, choose, compare_criteria, rules_of
from fastbert_hf.calibration.simulation import Simulation, simulate
from fastbert_hf.exit_rule import ExitRule
from fastbert_hf.fingerprint import model_fingerprint

__all__ = [
    "SETTING_FILE",
    "CalibratedSetting",
    "Certificate",
    "Evidence",
    "ExitRecords",
    "ExitRule",
    "Figures",
    "FoundRule",
    "Objective",
    "ParetoFront",
    "Simulation",
    "SpeedCurve",
    "best_rule",
    "calibrate",
    "certify",
    "certify_one_speed",
    "certify_searched",
    "choose",
    "compare_criteria",
    "figures_of",
    "model_fingerprint",
    "pareto_front",
    "record_exits",
    "rules_of",
    "simulate",
    "speed_curve",
]

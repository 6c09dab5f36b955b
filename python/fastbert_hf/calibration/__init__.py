"""Calibration: choosing when samples may leave, from one recorded pass over labelled samples.

`record_exits` runs the model once. From its `ExitRecords`, without the model: `simulate` says what an `ExitRule` does,
`speed_curve` what every Speed does, `compare_criteria` and `pareto_front` search, `certify_one_speed` and
`certify_searched` give a rule with a guarantee, `certify_f1` one for the F1 of every class, and `calibrate` turns a
target into a `CalibratedSetting`, which is saved beside the model. `calibrate_to_latency` needs a clock as well.
`scale_temperatures` makes the heads' probabilities comparable before.
"""

from __future__ import annotations

from fastbert_hf.calibration.calibrating import (
    Calibration,
    Search,
    calibrate,
    calibrate_and_compare,
    check_samples,
    figures_of,
)
from fastbert_hf.calibration.curve import speed_curve
from fastbert_hf.calibration.f1_guarantee import certify_f1
from fastbert_hf.calibration.guarantee import Certificate, certify, certify_one_speed, certify_searched, split_rows
from fastbert_hf.calibration.latency import calibrate_to_latency
from fastbert_hf.calibration.pareto import ParetoFront, pareto_front
from fastbert_hf.calibration.records import ExitRecords, record_exits
from fastbert_hf.calibration.search import CriterionChoice, FoundRule, best_rule, choose, compare_criteria, rules_of
from fastbert_hf.calibration.simulation import Simulation, simulate
from fastbert_hf.calibration.temperature import TemperatureScaling, fold_temperatures, scale_temperatures
from fastbert_hf.exits.calibrated_setting import (
    SETTING_FILE,
    CalibratedSetting,
    Evidence,
    Figures,
    Latency,
    Objective,
    SpeedCurve,
)
from fastbert_hf.exits.fingerprint import model_fingerprint
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.timing import Clock

__all__ = [
    "SETTING_FILE",
    "CalibratedSetting",
    "Calibration",
    "Certificate",
    "Clock",
    "CriterionChoice",
    "Evidence",
    "ExitRecords",
    "ExitRule",
    "Figures",
    "FoundRule",
    "Latency",
    "Objective",
    "ParetoFront",
    "Search",
    "Simulation",
    "SpeedCurve",
    "TemperatureScaling",
    "best_rule",
    "calibrate",
    "calibrate_and_compare",
    "calibrate_to_latency",
    "certify",
    "certify_f1",
    "certify_one_speed",
    "certify_searched",
    "check_samples",
    "choose",
    "compare_criteria",
    "figures_of",
    "fold_temperatures",
    "model_fingerprint",
    "pareto_front",
    "record_exits",
    "rules_of",
    "scale_temperatures",
    "simulate",
    "speed_curve",
    "split_rows",
]

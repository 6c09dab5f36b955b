"""From recorded exits and a target to a setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fastbert_hf.calibration.curve import speed_curve
from fastbert_hf.calibration.evidence import evidence_of, f1_evidence_of
from fastbert_hf.calibration.f1_guarantee import certify_f1
from fastbert_hf.calibration.guarantee import (
    TESTED_BESIDE_TEMPERATURES,
    TESTED_SHARE,
    certify_one_speed,
    certify_searched,
    check_enough_samples,
    split_rows,
)
from fastbert_hf.calibration.intervals import check_confidence, ratio_interval, share_interval
from fastbert_hf.calibration.one_speed import asked_layers
from fastbert_hf.calibration.pareto import pareto_front
from fastbert_hf.calibration.records import ExitRecords, check_several_classes
from fastbert_hf.calibration.search import (
    CriterionChoice,
    FoundRule,
    check_criterion,
    choose,
    compare_criteria,
    rules_of,
)
from fastbert_hf.calibration.simulation import classes_of, exit_heads, macro_f1_of, measure
from fastbert_hf.exits.calibrated_setting import CalibratedSetting, Evidence, Figures, Objective
from fastbert_hf.exits.criteria import CRITERIA, default_criterion
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.flops import exit_flops, full_depth_flops

Search: TypeAlias = Literal["searched", "one_speed"]

# Below, an accuracy is known to about 10 points at best, and the choice among rules is left to chance.
FEWEST_SAMPLES = 100


@dataclass(frozen=True)
class Calibration:
    """A setting, and what it was chosen from.

    Attributes:
        setting: the best for the target.
        compared: the best rule with one Speed of every criterion that was looked at, the best criterion first, with its
            figures on the samples that chose; empty for the search "one_speed".
    """

    setting: CalibratedSetting
    compared: tuple[FoundRule, ...]


def calibrate(
    records: ExitRecords,
    objective: Objective,
    *,
    confidence: float = 0.95,
    search: Search = "searched",
    criterion: CriterionChoice = "auto",
    temperatures_fitted: bool = False,
    seed: int = 0,
) -> CalibratedSetting:
    """Return the best setting for `objective`, with its evidence.

    `max_drop` and `max_disagreement` come with the guarantee that `guarantee` describes; for the second no label is
    looked at. `max_f1_drop` comes with that of `f1_guarantee`, and always takes one Speed. `min_speedup` comes with
    none: the most accurate rule that has the speed-up on all samples, or without labels the one that agrees most with
    full depth. `max_latency_ms` needs a clock, see `calibrate_to_latency`. For a model with one output
    `max_score_change` says from where on a score disagrees with full depth's.

    Args:
        records: samples that the model was not trained on, neither was it distilled on them.
        objective: the target.
        confidence: of the guarantee and the intervals, in (0, 1).
        search: "searched": over heads and Speeds per layer; "one_speed": one Speed (or patience) for all students but
            exit zero, which has it too or is not asked; it spends no samples on choosing.
        criterion: "auto" searches for the best one too; with "one_speed" it is the entropy.
        temperatures_fitted: whether the model has temperatures that were fitted to one half of the samples, by
            `scale_temperatures` with the same seed. These samples then test nothing, and choose where others do.
        seed: of the split into samples that choose and samples that test.

    Raises:
        ValueError: too few samples, `max_drop` without labels, labels of one class only, numbers out of range, a
            speed-up out of reach, or for a guarantee samples that the training saw (`ExitRecords.unseen`).
    """
    return calibrate_and_compare(
        records,
        objective,
        confidence=confidence,
        search=search,
        criterion=criterion,
        temperatures_fitted=temperatures_fitted,
        seed=seed,
    ).setting


def calibrate_and_compare(
    records: ExitRecords,
    objective: Objective,
    *,
    confidence: float = 0.95,
    search: Search = "searched",
    criterion: CriterionChoice = "auto",
    temperatures_fitted: bool = False,
    seed: int = 0,
) -> Calibration:
    """Return the best setting, as `calibrate` does, with the comparison of the criteria."""
    if objective.max_latency_ms is not None:
        raise ValueError("a latency has to be measured: use calibrate_to_latency (or fastbert calibrate --latency-ms)")
    if objective.max_score_change is not None:
        records = records.with_max_score_change(objective.max_score_change)
    records.check_comparable()
    if objective.max_disagreement is not None:
        records = records.without_labels()
    check_samples(len(records), records.labels, objective, confidence, search, temperatures_fitted)
    if objective.max_f1_drop is not None:
        setting = _keeping_f1(records, objective, confidence, criterion, temperatures_fitted, seed)
        return Calibration(setting, ())
    max_risk = objective.max_risk
    if max_risk is None:
        rule, compared = _fast_enough(records, objective, search, criterion)
        return Calibration(make_setting(records, rule, objective, confidence), compared)
    if search == "searched":
        share = _tested_share(search, temperatures_fitted)
        certificate = certify_searched(records, max_risk, confidence, criterion, tested_share=share, seed=seed)
        rows = certificate.tested_rows
    else:
        rows = _tested_rows(records, temperatures_fitted, seed)
        certificate = certify_one_speed(records.rows(rows), max_risk, confidence, *_fixed(criterion, records))
    setting = CalibratedSetting(
        rule=certificate.found.rule,
        objective=objective,
        figures=figures_of(records.rows(rows), certificate.found.rule, confidence),
        evidence=evidence_of(certificate, objective, records, searched=search == "searched"),
        fingerprint=records.fingerprint,
        curve=speed_curve(records),
        precision=records.precision,
    )
    return Calibration(setting, certificate.compared)


def check_samples(
    samples: int,
    labels: torch.Tensor | None,
    objective: Objective,
    confidence: float,
    search: Search,
    temperatures_fitted: bool = False,
) -> None:
    """Raise `ValueError` when no calibration on so many samples can be worth its name.

    Needs no model, so it can be asked before the samples are recorded.

    Args:
        samples: n.
        labels: int64 [n], or `None`.
        objective: as in `calibrate`, as are those that follow.
        confidence: of the guarantee and the intervals.
        search: how rules are found.
        temperatures_fitted: whether some of the samples fitted temperatures.
    """
    check_confidence(confidence)
    if labels is None and (objective.max_drop, objective.max_f1_drop) != (None, None):
        raise ValueError("a loss of accuracy cannot be seen without labels; use max_disagreement, which takes none")
    if objective.max_risk is not None:
        check_enough_samples(
            samples,
            objective.max_risk,
            confidence,
            _tested_share(search, temperatures_fitted),
            labelled=objective.max_drop is not None,
        )
    elif objective.max_f1_drop is None and samples < FEWEST_SAMPLES:
        raise ValueError(
            f"{samples} samples are too few to choose a setting by its accuracy; use at least {FEWEST_SAMPLES}"
        )
    if labels is not None and objective.max_disagreement is None:
        check_several_classes(labels)


def make_setting(records: ExitRecords, rule: ExitRule, objective: Objective, confidence: float) -> CalibratedSetting:
    """Return `rule`, which was chosen with all of `records`, as a setting without a guarantee."""
    target = "FLOPs speed-up" if objective.min_speedup is not None else "latency"
    best = "most accurate rule" if records.labels is not None else "rule that agrees most with full depth"
    return CalibratedSetting(
        rule=rule,
        objective=objective,
        figures=figures_of(records, rule, confidence),
        evidence=Evidence(
            samples=len(records),
            samples_for_choosing=0,
            confidence=confidence,
            method=f"the {best} among those with the wanted {target}, on the same samples",
            guarantee=None,
            p_value=None,
        ),
        fingerprint=records.fingerprint,
        curve=speed_curve(records),
        precision=records.precision,
    )


def figures_of(records: ExitRecords, rule: ExitRule, confidence: float) -> Figures:
    """Return what `rule` does on `records`, with intervals."""
    samples, rows, exits = len(records), np.arange(len(records)), exit_heads(records, rule)
    result = measure(records, rule.layers, exits)
    lengths, depths = records.lengths.numpy(), result.exit_layers
    executed = exit_flops(records.shape.asking(rule.layers), depths, lengths)
    right = None if records.labels is None else int(records.right[rows, exits].sum())
    first = min(1, records.exit_layers[0])  # 0 with exit zero
    differs = ~records.without_labels().right[rows, exits]
    changes = records.score_changes[rows, exits] if records.gives_scores else None
    classes = None if records.gives_scores else _classes_kept(records, torch.from_numpy(result.predictions))
    return Figures(
        full_depth_accuracy=None if right is None else records.full_depth_accuracy,
        accuracy=None if right is None else result.accuracy,
        accuracy_interval=None if right is None else share_interval(right, samples, confidence),
        drop=None if right is None else result.drop,
        flops_speedup=result.flops_speedup,
        flops_speedup_interval=ratio_interval(full_depth_flops(records.shape, lengths), executed, confidence),
        mean_exit_layer=result.mean_exit_layer,
        disagreement=float(differs.mean()),
        disagreement_interval=share_interval(int(differs.sum()), samples, confidence),
        exit_counts=tuple(np.bincount(depths, minlength=records.shape.num_layers + 1)[first:].tolist()),
        class_counts=None if classes is None else classes[0],
        class_losses=None if classes is None else classes[1],
        mean_score_change=None if changes is None else _of_finite(changes, np.mean),
        largest_score_change=None if changes is None else _of_finite(changes, np.max),
        full_depth_macro_f1=None if right is None else macro_f1_of(records, records.predictions[:, -1].numpy()),
        macro_f1=None if right is None else macro_f1_of(records, result.predictions),
    )


def _of_finite(values: torch.Tensor, what: Callable[[npt.NDArray[np.float64]], Any]) -> float:
    finite = values[values.isfinite()].double().numpy()
    return float(what(finite)) if len(finite) else 0.0


def _classes_kept(records: ExitRecords, answers: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how many samples full depth gives each class, and how many of them `answers` do not, [N] each."""
    has_class = classes_of(records, records.predictions[:, -1])
    lost = has_class & ~classes_of(records, answers)
    return tuple(has_class.sum(dim=0).tolist()), tuple(lost.sum(dim=0).tolist())


def candidate_rules(records: ExitRecords, search: Search, criterion: CriterionChoice) -> list[FoundRule]:
    """Return full depth and the rules of one criterion ("auto": the entropy) that `search` looks at, in no order."""
    name, parameter = _fixed(criterion, records)
    rules = _one_speed_rules(records, name, parameter)
    if search == "one_speed" or not CRITERIA[name].compares_speed:
        return rules
    return [rules[0], *pareto_front(records, name, parameter).rules]


def _one_speed_rules(records: ExitRecords, criterion: str, parameter: int) -> list[FoundRule]:
    """Return full depth and the rules of one criterion with one Speed, or every patience, exit zero asked or not."""
    first, *others = asked_layers(records.student_layers)
    rules = rules_of(records, criterion, parameter, first)
    for layers in others:
        rules += rules_of(records, criterion, parameter, layers)[1:]  # without full depth, which is there
    return rules


def _fixed(criterion: CriterionChoice, records: ExitRecords) -> tuple[str, int]:
    """Return name and parameter of a criterion that no sample chose."""
    check_criterion(criterion, records.shape.num_labels, records.problem_type)
    name = default_criterion(records.problem_type) if criterion == "auto" else criterion
    return name, CRITERIA[name].candidates(records.shape.num_labels)[0]


def _fast_enough(
    records: ExitRecords, objective: Objective, search: Search, criterion: CriterionChoice
) -> tuple[ExitRule, tuple[FoundRule, ...]]:
    if search == "one_speed":
        return choose(_one_speed_rules(records, *_fixed(criterion, records)), objective).rule, ()
    compared = tuple(compare_criteria(records, objective, criterion))
    best = compared[0]
    if not CRITERIA[best.rule.criterion].compares_speed:
        return best.rule, compared
    front = pareto_front(records, best.rule.criterion, best.rule.parameter)
    return choose([best, *front.rules], objective).rule, compared


def _tested_rows(records: ExitRecords, temperatures_fitted: bool, seed: int) -> torch.Tensor:
    """Return the rows that test rules which no sample chose, int64."""
    if not temperatures_fitted:
        return torch.arange(len(records))
    return split_rows(len(records), TESTED_BESIDE_TEMPERATURES, seed)[1]


def _tested_share(search: Search, temperatures_fitted: bool) -> float:
    """Return which part of the samples tests."""
    if temperatures_fitted:
        return TESTED_BESIDE_TEMPERATURES
    return 1.0 if search == "one_speed" else TESTED_SHARE


def _keeping_f1(
    records: ExitRecords,
    objective: Objective,
    confidence: float,
    criterion: CriterionChoice,
    temperatures_fitted: bool,
    seed: int,
) -> CalibratedSetting:
    """Return the fastest Speed with which the F1 of no class falls by more than the target."""
    assert objective.max_f1_drop is not None
    tested = records.rows(_tested_rows(records, temperatures_fitted, seed))
    certificate = certify_f1(tested, objective.max_f1_drop, confidence, *_fixed(criterion, records))
    return CalibratedSetting(
        rule=certificate.found.rule,
        objective=objective,
        figures=figures_of(tested, certificate.found.rule, confidence),
        evidence=f1_evidence_of(certificate, objective.max_f1_drop, records),
        fingerprint=records.fingerprint,
        curve=speed_curve(records),
        precision=records.precision,
    )

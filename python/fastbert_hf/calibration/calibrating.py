"""From recorded exits and a wish to a setting."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from fastbert_hf.calibrated_setting import CalibratedSetting, Evidence, Figures, Objective
from fastbert_hf.calibration.curve import speed_curve
from fastbert_hf.calibration.guarantee import Certificate, certify_one_speed, certify_searched
from fastbert_hf.calibration.intervals import ratio_interval, share_interval
from fastbert_hf.calibration.pareto import pareto_front
from fastbert_hf.calibration.records import ExitRecords, check_several_classes
from fastbert_hf.calibration.search import choose, compare_criteria, rules_of
from fastbert_hf.calibration.simulation import simulate
from fastbert_hf.exit_rule import ExitRule
from fastbert_hf.flops import full_depth_flops, head_flops, layer_flops

Search: TypeAlias = Literal["searched", "one_speed"]

# Below, an accuracy is known to about 10 points at best, and the choice among rules is left to chance.
FEWEST_SAMPLES = 100


def calibrate(
    records: ExitRecords,
    objective: Objective,
    *,
    confidence: float = 0.95,
    search: Search = "searched",
    seed: int = 0,
) -> CalibratedSetting:
    """The best setting for `objective`, with its evidence.

    `max_drop` comes with the guarantee that `guarantee` describes. `min_speedup` comes with none: the most accurate
    rule that has the speed-up on all samples.

    Args:
        records: samples that the model was not trained on.
        objective: what is wished for.
        confidence: of the guarantee and the intervals, in (0, 1).
        search: "searched": over criteria, heads and Speeds per layer; "one_speed": entropy with one Speed for all
            layers, which every model takes as it is, and which spends no samples on choosing.
        seed: of the split into samples that choose and samples that test.

    Raises:
        ValueError: too few samples, samples of one class only, numbers out of range, or a speed-up out of reach.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence:g}")
    if objective.max_drop is None:
        rule, evidence, measured = (
            _fast_enough(records, objective, search),
            _without_guarantee(records, confidence),
            records,
        )
    else:
        if search == "searched":
            certificate = certify_searched(records, objective.max_drop, confidence, seed=seed)
        else:
            certificate = certify_one_speed(records, objective.max_drop, confidence)
        rule, evidence = certificate.found.rule, _with_guarantee(certificate, len(records))
        measured = records.rows(certificate.tested_rows)
    return CalibratedSetting(
        rule=rule,
        objective=objective,
        figures=figures_of(measured, rule, confidence),
        evidence=evidence,
        fingerprint=records.fingerprint,
        curve=speed_curve(records),
    )


def figures_of(records: ExitRecords, rule: ExitRule, confidence: float) -> Figures:
    """What `rule` does on `records`, with intervals."""
    result = simulate(records, rule)
    lengths, depths = records.lengths.numpy(), result.exit_layers
    heads = np.searchsorted((*rule.layers, records.shape.num_layers), depths, side="right")
    executed = depths * layer_flops(records.shape, lengths) + heads * head_flops(records.shape, lengths)
    right = int((result.predictions == records.labels.numpy()).sum())
    return Figures(
        full_depth_accuracy=records.full_depth_accuracy,
        accuracy=result.accuracy,
        accuracy_interval=share_interval(right, len(records), confidence),
        drop=result.drop,
        flops_speedup=result.flops_speedup,
        flops_speedup_interval=ratio_interval(full_depth_flops(records.shape, lengths), executed, confidence),
        mean_exit_layer=result.mean_exit_layer,
    )


def _fast_enough(records: ExitRecords, objective: Objective, search: Search) -> ExitRule:
    check_several_classes(records)
    if len(records) < FEWEST_SAMPLES:
        raise ValueError(
            f"{len(records)} samples are too few to choose a setting by its accuracy; use at least {FEWEST_SAMPLES}"
        )
    if search == "one_speed":
        return choose(rules_of(records), objective).rule
    best = compare_criteria(records, objective)[0]
    if best.rule.criterion == "patience":
        return best.rule
    return choose([best, *pareto_front(records, best.rule.criterion, best.rule.top_k).rules], objective).rule


def _with_guarantee(certificate: Certificate, samples: int) -> Evidence:
    chosen_with = samples - certificate.samples
    how = (
        f"criterion, heads and Speeds per layer searched on {chosen_with} samples, tested on the others"
        if chosen_with
        else "one Speed of a grid fixed beforehand"
    )
    return Evidence(
        samples=certificate.samples,
        samples_for_choosing=chosen_with,
        confidence=certificate.confidence,
        method=f"{how}; Learn then Test, fixed-sequence testing with exact binomial p-values",
        guarantee=(
            f"With {certificate.confidence:.4g} confidence, at most {certificate.max_drop:g} of new samples from the "
            "same distribution are right at full depth and wrong at their exit, so accuracy falls by at most as much."
        ),
        p_value=certificate.p_value,
    )


def _without_guarantee(records: ExitRecords, confidence: float) -> Evidence:
    return Evidence(
        samples=len(records),
        samples_for_choosing=0,
        confidence=confidence,
        method="the most accurate rule with the wanted FLOPs speed-up on the same samples",
        guarantee=None,
        p_value=None,
    )

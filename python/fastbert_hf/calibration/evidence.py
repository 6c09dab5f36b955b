"""What a certificate shows, in the words that are saved beside its rule."""

from __future__ import annotations

from fastbert_hf.calibration.guarantee import Certificate, enough_samples
from fastbert_hf.calibration.one_speed import asked_layers, confidence_of_each
from fastbert_hf.calibration.records import ExitRecords
from fastbert_hf.exits.calibrated_setting import Evidence, Objective


def evidence_of(certificate: Certificate, objective: Objective, records: ExitRecords, *, searched: bool) -> Evidence:
    """Return the evidence of a rule whose risk is at most `max_risk`.

    Args:
        certificate: of `certify_one_speed` or `certify_searched`.
        objective: the target.
        records: all samples, those that the certificate did not test included.
        searched: which of the two.
    """
    chosen_with = len(records) - certificate.samples
    if searched:
        how = f"criterion, heads and Speeds per layer searched on {chosen_with} samples, tested on the others"
    else:
        how = _grid_in_words(certificate, records)
        if chosen_with:
            how += f", tested on the samples that fitted no temperature ({chosen_with} did)"
    sure, at_most = f"{certificate.confidence:.4g}", f"{certificate.max_risk:g}"
    if objective.max_score_change is not None:
        promise = f"have a score at their exit that is more than {objective.max_score_change:g} from full depth's"
    elif objective.max_disagreement is not None:
        promise = "get another answer at their exit than at full depth"
    else:
        promise = "are right at full depth and wrong at their exit, so accuracy falls by at most as much"
    return Evidence(
        samples=certificate.samples,
        samples_for_choosing=chosen_with,
        confidence=certificate.confidence,
        method=f"{how}; Learn then Test, fixed-sequence testing with exact binomial p-values",
        guarantee=f"With {sure} confidence, at most {at_most} of new samples from the same distribution {promise}.",
        p_value=certificate.p_value,
    )


def f1_evidence_of(certificate: Certificate, max_f1_drop: float, records: ExitRecords) -> Evidence:
    """Return the evidence of a rule with which the F1 of no class falls by more than that.

    Args:
        certificate: of `certify_f1`.
        max_f1_drop: the target.
        records: all samples, those that the certificate did not test included.
    """
    tested = len(certificate.tested_rows)
    return Evidence(
        samples=tested,
        samples_for_choosing=len(records) - tested,
        confidence=certificate.confidence,
        method=f"{_grid_in_words(certificate, records)}; Learn then Test, fixed-sequence testing with exact binomial "
        "p-values, the largest of all classes for each rule",
        guarantee=f"With {certificate.confidence:.4g} confidence, the F1 of no class falls by more than "
        f"{max_f1_drop:g} on new samples from the same distribution, and so macro F1 neither.",
        p_value=certificate.p_value,
    )


def _grid_in_words(certificate: Certificate, records: ExitRecords) -> str:
    """Return which rules with one Speed were tested: all, or of a model with exit zero those without it and with it."""
    words = "one Speed (or patience) of a grid fixed beforehand"
    if certificate.sequences > 1:
        return f"{words}, without layer 0 and with it, each at half of the level"
    orders = len(asked_layers(records.student_layers))
    if orders > 1:
        needed = enough_samples(certificate.max_risk, confidence_of_each(certificate.confidence, orders))
        return f"{words}, without layer 0 (with it they take {needed} samples)"
    return words

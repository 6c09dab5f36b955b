"""At most so much lost, at a stated confidence: exit rules tested so that the promise holds for new samples.

The loss of a rule on a sample is 1 when full depth answers right and the rule's exit answers wrong, else 0. Its mean
over the population is the risk R. What right is depends on the records:

- With labels, an answer is right when it is the label. Accuracy at full depth less accuracy of the rule is R less the
  share of samples that early exits correct, so it is at most R (`max_drop`).
- Without labels, an answer is right when it is full depth's; of a multi-label model, in every class. R is then the
  share of samples whose answer is another than full depth's (`max_disagreement`). A drop of accuracy is at most that.
- A score of a model with one output is right when it is at most `max_score_change` from full depth's. R is then the
  share of samples with |score at the exit - score at full depth| above it: the probability of a large change, and not
  the mean change, so that nothing has to be known about how large a score can be.

What is guaranteed: with probability at least `confidence` over the drawing of the tested samples, the rule that comes
out has R <= `max_risk` on new samples from the same distribution. The samples must be drawn independently from that
distribution, and the model must not have been trained on them, its students by distillation neither. Nothing is
promised for one class, one length of text, data of another kind, or other weights or precision than those recorded.

How: Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv 2110.01052). For each rule the hypothesis
"R > max_risk" is tested with the exact binomial p-value, P(Binomial(n, max_risk) <= losses), the one behind the
Clopper-Pearson bound. The rules are tested in an order fixed beforehand, from careful to fast, each at the full level
1 - confidence, up to the first that fails (fixed-sequence testing). With probability at least `confidence` R is at most
`max_risk` for all that passed together, so that the fastest of them may be chosen; or full depth, whose R is 0. The
order may come from anything but the samples of the test. Two ways to get one are here:

- `certify_one_speed`: a grid of Speeds written down in `one_speed` (or every patience), tested on all samples. Speeds
  of a score are multiples of `max_score_change`, which the user chose, as it has no scale of its own. With exit zero
  there are two orders, without it and with it, each tested up to its own first failure at half of the level. Then the
  probability that a rule with R above `max_risk` passes is at most 1 - confidence for both together (Bonferroni; the
  paper's fixed-sequence testing from several starting points), so that the fastest rule of either may be chosen. Half
  of the level takes more samples at least, 368 instead of 299 for 0.01 at 0.95. With fewer no rule could pass at it,
  whatever the answers, so the order without exit zero has all of the level; the number of samples alone decides that.
  (A tenth of the samples could choose the order, and the others test it at the whole level. Where it chooses rightly
  that shows a little more: a rule with R = 0.005 passes for 0.01 on 1,270 samples with probability 0.49 instead of
  0.39. But a tenth are 127, of which such a rule mostly spoils none or one, so chance would often choose.)
- `certify_searched`: one part of the samples, drawn at random, chooses criterion, heads and Speeds per layer, a Pareto
  front of which, behind more careful versions of its first rule, is the order; the other part tests it
  (Laufer-Goldshtein, Fisch, Barzilay and Jaakkola 2023, "Efficiently controlling multiple risks with Pareto testing",
  arXiv 2210.07913).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import special

from fastbert_hf.calibration.intervals import check_confidence
from fastbert_hf.calibration.one_speed import (
    confidence_of_each,
    one_speed_losses,
    one_speed_sequences,
    patient_first,
)
from fastbert_hf.calibration.pareto import pareto_front, spoilt
from fastbert_hf.calibration.records import ExitRecords, check_several_classes
from fastbert_hf.calibration.search import CriterionChoice, FoundRule, compare_criteria
from fastbert_hf.calibration.simulation import exit_heads, simulate
from fastbert_hf.exits.calibrated_setting import Objective
from fastbert_hf.exits.criteria import CRITERIA, default_criterion
from fastbert_hf.exits.rule import ExitRule

# Rules of a searched front that are tested; a longer way has more places to fail at by chance.
TESTED_RULES = 40
# Before them the first one with lower Speeds, in so many steps.
CAREFUL_STEPS = 16
# Part of the samples that test, where others choose: two thirds and four fifths let faster rules through than one half
# (docs/calibration.md, benchmarks/calibration_power.py).
TESTED_SHARE = 0.8
# The same where the others fit temperatures, too, which a fifth of a few hundred samples can set far off.
TESTED_BESIDE_TEMPERATURES = 0.5


@dataclass(frozen=True)
class Certificate:
    """A rule that passed the test, with its evidence; the module says what is guaranteed.

    Attributes:
        found: the rule, and its figures on the tested samples. Full depth when none that is faster passed.
        max_risk: what R is at most.
        confidence: of the guarantee.
        samples: number of samples that the rules were tested on.
        losses: of them, those right at full depth and wrong at the rule's exit.
        p_value: of the hypothesis that R is above `max_risk`; 0 for full depth, whose R is 0.
        tested_rules: how many rules were tested, the one that failed included.
        tested_rows: int64 [samples], which of the records these are.
        compared: best rule of every criterion that was looked at, on the samples that chose, the best criterion first;
            empty where nothing was chosen.
        sequences: how many orders of rules were tested, each at an equal share of the level.
    """

    found: FoundRule
    max_risk: float
    confidence: float
    samples: int
    losses: int
    p_value: float
    tested_rules: int
    tested_rows: torch.Tensor
    compared: tuple[FoundRule, ...] = ()
    sequences: int = 1


def certify_one_speed(
    records: ExitRecords,
    max_risk: float,
    confidence: float = 0.95,
    criterion: str | None = None,
    parameter: int = 0,
) -> Certificate:
    """Return the fastest single Speed of the fixed grid that keeps the promise, or full depth.

    All heads are asked. Exit zero is asked with that Speed too, or not at all: both are tested where there are samples
    enough for two, else it is not asked (the module says how).

    Args:
        records: the samples, all of them tested.
        max_risk: what R may be at most, in (0, 1).
        confidence: in (0, 1).
        criterion: `None`: that by which a Speed alone decides. "patience" has its numbers of equal predictions tested,
            from the most to the fewest. It and `parameter` must not have been chosen by looking at these samples.
        parameter: the number that belongs to the criterion, as in `rules_of`.

    Raises:
        ValueError: numbers out of range, too few samples, samples of one class only, or that the training saw.
    """
    _check(records, max_risk, confidence, tested_share=1.0)
    criterion = default_criterion(records.problem_type) if criterion is None else criterion
    sequences = one_speed_sequences(records, criterion, parameter)
    if len(records) < enough_samples(max_risk, confidence_of_each(confidence, len(sequences))):
        sequences = sequences[:1]
    each = confidence_of_each(confidence, len(sequences))
    candidates: list[ExitRule] = []
    tested_rules = 0
    for rules in sequences:
        passed, tested = fixed_sequence(one_speed_losses(records, rules), len(records), max_risk, each)
        # Of Speeds the last is the fastest: with a higher one no sample leaves later.
        candidates += rules[:passed][-1:] if CRITERIA[criterion].compares_speed else rules[:passed]
        tested_rules += tested
    rows = torch.arange(len(records))
    certificate = _certificate(records, candidates, max_risk, confidence, tested_rules, rows)
    return replace(certificate, sequences=len(sequences))


def certify_searched(
    records: ExitRecords,
    max_risk: float,
    confidence: float = 0.95,
    criterion: CriterionChoice = "auto",
    *,
    tested_share: float = TESTED_SHARE,
    seed: int = 0,
) -> Certificate:
    """Return the fastest rule that keeps the promise among those of a search over criteria, heads and Speeds per layer.

    Args:
        records: the samples, split by `split_rows` into those that choose the rules and those that test them.
        max_risk: what R may be at most, in (0, 1).
        confidence: in (0, 1).
        criterion: "auto": the one that is best on the samples that choose.
        tested_share: part of the samples for the test, in (0, 1).
        seed: of the split. Trying several and keeping the best voids the guarantee.

    Raises:
        ValueError: as `certify_one_speed`, or `tested_share` out of range.
    """
    choosing_rows, tested_rows = split_rows(len(records), tested_share, seed)
    _check(records, max_risk, confidence, tested_share)
    choosing = records.rows(choosing_rows)
    compared = compare_criteria(choosing, Objective(max_drop=max_risk), criterion)
    rules = _careful_to_fast(choosing, compared[0].rule)
    certificate = certify(records.rows(tested_rows), rules, max_risk, confidence, tested_rows)
    return replace(certificate, compared=tuple(compared))


def split_rows(samples: int, tested_share: float = TESTED_SHARE, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions of the samples that choose and of those that test, int64 each, drawn at random.

    What is to be guaranteed must not have met the second ones, whatever is fitted or chosen.

    Args:
        samples: n, the positions are in 0..n-1.
        tested_share: part of the samples for the test, in (0, 1).
        seed: of the draw.

    Raises:
        ValueError: `tested_share` out of range.
    """
    if not 0 < tested_share < 1:
        raise ValueError(f"tested_share must lie between 0 and 1, got {tested_share}")
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    tested = int(samples * tested_share)
    return order[tested:].sort().values, order[:tested].sort().values


def certify(
    records: ExitRecords,
    rules: Sequence[ExitRule],
    max_risk: float,
    confidence: float,
    rows: torch.Tensor | None = None,
) -> Certificate:
    """Return the fastest of `rules` before the first that fails the test on `records`, or full depth if none is faster.

    Args:
        records: the samples of the test.
        rules: from careful to fast, in an order to which `records` contributed nothing.
        max_risk: what R may be at most, in (0, 1).
        confidence: in (0, 1).
        rows: what the certificate calls the samples; `None` for their positions.

    Raises:
        ValueError: numbers out of range, too few samples, or samples that the training saw.
    """
    records.check_unseen()
    check_enough_samples(len(records), max_risk, confidence, labelled=records.labels is not None)
    lost = spoilt(records)
    losses = np.asarray([_losses(records, rule, lost) for rule in rules], dtype=np.int64)
    passed, tested = fixed_sequence(losses, len(records), max_risk, confidence)
    rows = torch.arange(len(records)) if rows is None else rows
    return _certificate(records, rules[:passed], max_risk, confidence, tested, rows)


def fixed_sequence(losses: npt.NDArray[np.int64], samples: int, max_risk: float, confidence: float) -> tuple[int, int]:
    """Return how many of the rules, in their order, pass before one fails; and how many were tested.

    Args:
        losses: number of losses of every rule on the `samples`.
        samples: n.
        max_risk: the risk that a rule is tested to be at most.
        confidence: 1 less the level of the test.
    """
    fails = p_values(losses, samples, max_risk) > 1 - confidence
    passed = int(fails.argmax()) if fails.any() else len(losses)
    return passed, min(passed + 1, len(losses))


def p_values(losses: npt.ArrayLike, samples: npt.ArrayLike, max_risk: float) -> npt.NDArray[np.float64]:
    """Return P(Binomial(samples, max_risk) <= losses): how likely so few losses are at a risk of `max_risk`."""
    return special.bdtr(np.asarray(losses, dtype=np.float64), samples, max_risk)


def enough_samples(max_risk: float, confidence: float) -> int:
    """Return the fewest samples that can show it: with no loss on them, (1 - max_risk)^n is at most 1 - confidence."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-max_risk))


def check_enough_samples(
    samples: int, max_risk: float, confidence: float, tested_share: float = 1.0, *, labelled: bool = True
) -> None:
    """Raise `ValueError` when no result on `tested_share` of the samples could show the promise.

    Args:
        samples: number of all samples.
        max_risk: what R is to be at most.
        confidence: of the guarantee.
        tested_share: part of the samples that tests.
        labelled: True: the promise is of accuracy, else of answers that are those of full depth.
    """
    name = "max_drop" if labelled else "max_disagreement"
    if not 0 < max_risk < 1:
        nothing = "nothing at all is lost" if labelled else "no answer at all differs"
        raise ValueError(
            f"{name} must lie between 0 and 1, got {max_risk:g}: that {nothing} cannot be shown with "
            "any number of samples, and 1 % is 0.01"
        )
    check_confidence(confidence)
    needed = enough_samples(max_risk, confidence)
    if int(samples * tested_share) < needed:
        total = math.ceil(needed / tested_share)
        while int(total * tested_share) < needed:
            total += 1
        test = "" if tested_share == 1 else f" ({needed} to test with, the others to choose the setting)"
        what = "accuracy is lost" if labelled else "answers differ from full depth's"
        if_none = "if early exits spoil none of them" if labelled else "if none of theirs differs"
        raise ValueError(
            f"{samples} samples cannot show with {confidence:.4g} confidence that at most {max_risk:g} of {what}, "
            f"whatever the model answers: {total} samples{test} are enough {if_none}. Use more samples, a larger "
            f"{name} or less confidence"
        )


def _check(records: ExitRecords, max_risk: float, confidence: float, tested_share: float) -> None:
    records.check_comparable()
    records.check_unseen()
    labelled = records.labels is not None
    check_enough_samples(len(records), max_risk, confidence, tested_share, labelled=labelled)
    if records.labels is not None:
        check_several_classes(records.labels)


def _losses(records: ExitRecords, rule: ExitRule, lost: npt.NDArray[np.bool_]) -> int:
    return int(lost[np.arange(len(records)), exit_heads(records, rule)].sum())


def _careful_to_fast(records: ExitRecords, best: ExitRule) -> list[ExitRule]:
    """Return the rules in the order of their test, all from these samples: those of the criterion of `best`."""
    if not CRITERIA[best.criterion].compares_speed:
        (smallest,) = CRITERIA[best.criterion].candidates(records.shape.num_labels)
        return patient_first(records, best.criterion, smallest, best.layers)
    front = [found.rule for found in pareto_front(records, best.criterion, best.parameter, quality="kept").rules]
    steps = np.unique(np.linspace(0, len(front) - 1, TESTED_RULES).round().astype(np.int64))
    # The front begins with the fastest rule that spoils none of the samples that it was fitted to. On others it spoils
    # some, and where it failed, nothing would have passed.
    first = [rule for rule in front if rule.layers][:1]
    shares = np.arange(1, CAREFUL_STEPS) / CAREFUL_STEPS
    careful = [_with_speeds_times(share, rule) for rule in first for share in shares]
    return careful + [front[step] for step in steps]


def _with_speeds_times(share: float, rule: ExitRule) -> ExitRule:
    return replace(rule, speeds=tuple(float(np.float32(share * speed)) for speed in rule.speeds))


def _certificate(
    records: ExitRecords,
    passed: Sequence[ExitRule],
    max_risk: float,
    confidence: float,
    tested_rules: int,
    rows: torch.Tensor,
) -> Certificate:
    """Return the certificate of the fastest, by its FLOPs, of full depth and the rules that `passed`."""
    found = [FoundRule.of(rule, simulate(records, rule)) for rule in (ExitRule.full_depth(), *passed)]
    fastest = max(found, key=lambda one: one.flops_speedup)  # of equally fast ones the first
    losses = _losses(records, fastest.rule, spoilt(records))
    return Certificate(
        found=fastest,
        max_risk=max_risk,
        confidence=confidence,
        samples=len(records),
        losses=losses,
        p_value=float(p_values(losses, len(records), max_risk)) if fastest.rule.layers else 0.0,
        tested_rules=tested_rules,
        tested_rows=rows,
    )

"""At most so much F1 lost, of any class: the promise of `guarantee` for a score that is no mean over the samples.

F1 of class c is F = 2 P(label and answer are c) / S, where S = P(label is c) + P(answer is c), and macro F1 is its mean
over the classes. It is a ratio, so no binomial test bounds its fall as it is. A share r that bounds it is tested:

- A sample has to do with c when its label, full depth's answer or the rule's answer is c.
- Of these, a sample is lost for c when full depth answers c rightly and the rule does not, or when the rule alone
  answers c, and wrongly. r is the share of them that is lost, in the population.

Claim: F1 of c falls by at most 2 r / (1 + r). Let a and b be the probabilities of the two ways to be lost, and S and F
those of full depth. What the rule does beside that (c answered rightly where full depth does not, or wrongly no longer)
raises its F1, so this is at least (S F - 2 a) / (S - a + b), and the fall at most

    f = (a (2 - F) + b F) / (S - a + b),    where a + b = r (S (1 - F / 2) + b)    and a <= S F / 2,

as S F / 2 is P(label and answer are c). With the equation for a, f is a ratio of two linear functions of b, whose slope
has the sign of -2 S (1 - F): f is largest at b = 0. There it is r t^2 / (2 - r t) with t = 2 - F, which grows with t;
and a <= S F / 2 says r t <= F, so t <= 2 / (1 + r), where f is 2 r / (1 + r). If r t > F, F < 2 r / (1 + r) itself, and
F1 cannot fall below 0. (The bound is reached where all that was right is lost. Where F is close to 1, f is r / (2 - r),
about a quarter of it: the price of a promise for classes of any quality.)

So with r <= D / (2 - D) for every class, no class loses more than D, and macro F1 neither. Given how many samples have
to do with c, those lost are binomial, and the p-value of "r > D / (2 - D)" is exact. A rule is tested by the largest
p-value of its classes: all hypotheses must fall together, which takes no correction for their number (the
intersection-union test of Berger 1982, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24).
The orders of the rules and the rest are those of `guarantee.certify_one_speed`: two orders at half of the level each
where the model has exit zero. How many samples have to do with a class is not known before an answer is looked at, so
that there is no going back to one order where they are few: a class takes more of them, 143 instead of 116 for 0.05.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from fastbert_hf.calibration.guarantee import Certificate, enough_samples, p_values
from fastbert_hf.calibration.intervals import check_confidence
from fastbert_hf.calibration.one_speed import confidence_of_each, one_speed_exits, one_speed_sequences
from fastbert_hf.calibration.records import ExitRecords
from fastbert_hf.calibration.search import FoundRule
from fastbert_hf.calibration.simulation import Integers, simulate
from fastbert_hf.exits.rule import ExitRule

# A rule; of the class with the largest p-value its samples, those of them that are lost, and the p-value.
_Test = tuple[ExitRule, int, int, float]


def certify_f1(
    records: ExitRecords,
    max_f1_drop: float,
    confidence: float = 0.95,
    criterion: str = "entropy",
    parameter: int = 0,
) -> Certificate:
    """Return the fastest single Speed of a fixed grid with which no class loses more F1 than that.

    All heads are asked, exit zero with that Speed too or not at all.

    Args:
        records: labelled samples, all of them tested.
        max_f1_drop: by which F1 of any class may fall, in (0, 1).
        confidence: in (0, 1).
        criterion: as in `certify_one_speed`, as is the next.
        parameter: the number that belongs to it.

    Returns:
        Its `max_risk` is that of the samples of a class, D / (2 - D); `samples` and `losses` are those of the class
        with the largest p-value.

    Raises:
        ValueError: as of `check_f1_samples`, no labels, or samples that the training saw.
    """
    records.check_unseen()
    sequences = one_speed_sequences(records, criterion, parameter)
    check_f1_samples(records.known_labels, records.shape.num_labels, max_f1_drop, confidence, sequences=len(sequences))
    max_risk, level = max_share(max_f1_drop), 1 - confidence_of_each(confidence, len(sequences))
    full_depth = ExitRule.full_depth()
    best = FoundRule.of(full_depth, simulate(records, full_depth))
    samples, losses, p_value, tested_rules = len(records), 0, 0.0, 0
    for rules in sequences:
        passed = list(itertools.takewhile(lambda test: test[-1] <= level, _tests(records, rules, max_risk)))
        tested_rules += min(len(passed) + 1, len(rules))
        for rule, tested, lost, value in passed[-1:]:  # the fastest of its order: no sample leaves later
            found = FoundRule.of(rule, simulate(records, rule))
            if found.flops_speedup > best.flops_speedup:  # heads that let nobody go cost, too
                best, samples, losses, p_value = found, tested, lost, value
    return Certificate(
        found=best,
        max_risk=max_risk,
        confidence=confidence,
        samples=samples,
        losses=losses,
        p_value=p_value,
        tested_rules=tested_rules,
        tested_rows=torch.arange(len(records)),
        sequences=len(sequences),
    )


def of_classes(records: ExitRecords, exits: Integers) -> tuple[Integers, Integers]:
    """Return how many samples have to do with each class, and how many of them are lost for it, [N] each.

    Args:
        records: labelled samples.
        exits: index of the head at which each sample leaves, [n].
    """
    rows, classes = np.arange(len(records)), np.arange(records.shape.num_labels)
    answers = records.predictions.numpy()
    label, before, now = (
        values[:, None] == classes for values in (records.known_labels.numpy(), answers[:, -1], answers[rows, exits])
    )
    lost = (label & before & ~now) | (~label & ~before & now)
    return (label | before | now).sum(axis=0), lost.sum(axis=0)


def max_share(max_f1_drop: float) -> float:
    """Return the share of the samples of a class that may be lost, so that its F1 falls by at most `max_f1_drop`."""
    return max_f1_drop / (2 - max_f1_drop)


def check_f1_samples(
    labels: torch.Tensor,
    num_labels: int,
    max_f1_drop: float,
    confidence: float,
    names: Sequence[str] | None = None,
    *,
    sequences: int = 1,
) -> None:
    """Raise `ValueError` when some class has too few samples to show anything of it.

    Args:
        labels: class ids, int64 [n].
        num_labels: N.
        max_f1_drop: of the promise.
        confidence: of the promise.
        names: of the classes; `None`: their ids.
        sequences: orders of rules that are tested, each at an equal share of the level; 2 with exit zero.
    """
    if not 0 < max_f1_drop < 1:
        raise ValueError(
            f"max_f1_drop must lie between 0 and 1, got {max_f1_drop:g}: that no F1 falls at all cannot be shown with "
            "any number of samples, and 0.01 is one point"
        )
    check_confidence(confidence)
    each = confidence_of_each(confidence, sequences)
    needed = enough_samples(max_share(max_f1_drop), each)
    counts = torch.bincount(labels, minlength=num_labels)
    fewest = int(counts.argmin())
    if counts[fewest] < needed:
        name = str(fewest) if names is None else repr(names[fewest])
        allowed = _smallest_drop(int(counts[fewest]), each)
        possible = f", or a max_f1_drop of {allowed:.2f}," if counts[fewest] and allowed < 1 else ""
        halves = "" if sequences == 1 else " (rules with layer 0 and without it share the level)"
        raise ValueError(
            f"class {name} has {int(counts[fewest])} samples, and {needed} are needed of each class{possible} to show "
            f"with {confidence:.4g} confidence that its F1 falls by at most {max_f1_drop:g}{halves}. Use more samples "
            "of it, or max_drop, which is of all samples together"
        )


def _tests(records: ExitRecords, rules: Sequence[ExitRule], max_risk: float) -> Iterator[_Test]:
    """Yield the test of each rule of an order."""
    for rule, exits in zip(rules, one_speed_exits(records, rules), strict=True):
        yield (rule, *_worst_class(records, exits, max_risk))


def _worst_class(records: ExitRecords, exits: Integers, max_risk: float) -> tuple[int, int, float]:
    """Return samples, losses and p-value of the class with the largest p-value."""
    samples, losses = of_classes(records, exits)
    values = p_values(losses, samples, max_risk)
    worst = int(values.argmax())
    return int(samples[worst]), int(losses[worst]), float(values[worst])


def _smallest_drop(samples: int, confidence: float) -> float:
    """Return the smallest F1 drop, rounded up to hundredths, that so many samples of a class can show."""
    share = -math.expm1(math.log1p(-confidence) / max(samples, 1))
    return math.ceil(100 * 2 * share / (1 + share)) / 100

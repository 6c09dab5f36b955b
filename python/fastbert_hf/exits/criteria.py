"""The criteria by which a sample may leave: one table, which rule, decision, calibration and wording read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from fastbert_hf.exits.uncertainty import (
    change_of_score,
    least_confidence,
    least_margin,
    mean_binary_entropy,
    normalised_entropy,
    top_k_entropy,
)

SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
ONE_OUTPUT = "regression"


@dataclass(frozen=True)
class Parameter:
    """The one integer that a criterion has beside Speed.

    Attributes:
        meaning: what it counts, for messages.
        smallest: the least that makes sense.
    """

    meaning: str
    smallest: int


@dataclass(frozen=True)
class Criterion:
    """One way to decide that a sample leaves.

    Attributes:
        uncertainty: what the model reports, of logits [..., N], the parameter, and the logits of the exit head before
            or `None`: [...] in [0, `largest_speed`], NaN where the logits are not finite; float32, for float64 logits
            float64.
        in_words: what is looked at, for a parameter, in a form that fits behind "the" or "after".
        compares_speed: True: a sample leaves when its uncertainty is below Speed. False: when as many heads in a row as
            the parameter says, of those asked, predicted the same class; Speed is not looked at.
        compares_heads: True: the uncertainty is a change since the exit head before, of those asked.
        largest_speed: the largest Speed, as the uncertainty never exceeds it.
        parameter: `None` for a criterion without one, whose parameter is 0 everywhere.
        problem_type: of the models that it is for, in the words of Transformers.
        candidates: for a number of classes, the parameters that a calibration compares, each with every Speed; empty
            where the criterion is no other than the entropy. Of a criterion that compares with no Speed the smallest,
            which stands for itself and all above.
    """

    uncertainty: Callable[[torch.Tensor, int, torch.Tensor | None], torch.Tensor]
    in_words: Callable[[int], str]
    compares_speed: bool = True
    compares_heads: bool = False
    largest_speed: float = 1.0
    parameter: Parameter | None = None
    problem_type: str = SINGLE_LABEL
    candidates: Callable[[int], tuple[int, ...]] = lambda num_labels: (0,)

    def of_all_heads(self, all_logits: torch.Tensor, parameter: int) -> torch.Tensor:
        """Return the uncertainty of E heads as if all were asked, [..., E], of their logits [..., E, N]."""
        before = None
        if self.compares_heads:
            before = torch.cat([torch.full_like(all_logits[..., :1, :], math.nan), all_logits[..., :-1, :]], dim=-2)
        return self.uncertainty(all_logits, parameter, before)


LARGEST_PARAMETER = 2**31 - 1  # what a kernel takes

# Most likely classes that a calibration tries on models with more classes than that.
_TOP_KS = (2, 3, 5, 10, 20)

# From Liu et al. 2020, section 3.3 (entropy), FastPLM (of the likeliest classes) and Zhou et al. 2020 (patience, and of
# scores the change from head to head).
CRITERIA: Mapping[str, Criterion] = {
    "entropy": Criterion(
        uncertainty=lambda logits, *_: normalised_entropy(logits),
        in_words=lambda _: "normalised entropy",
    ),
    "top_k_entropy": Criterion(
        uncertainty=lambda logits, k, _: top_k_entropy(logits, k),
        in_words=lambda k: f"entropy of the {k} likeliest classes",
        parameter=Parameter("most likely classes", smallest=2),
        candidates=lambda num_labels: tuple(k for k in _TOP_KS if k < num_labels),
    ),
    "confidence": Criterion(
        uncertainty=lambda logits, *_: least_confidence(logits),
        in_words=lambda _: "1 - largest probability",
    ),
    "margin": Criterion(
        uncertainty=lambda logits, *_: least_margin(logits),
        in_words=lambda _: "1 - difference of the two largest probabilities",
    ),
    "binary_entropy": Criterion(
        uncertainty=lambda logits, *_: mean_binary_entropy(logits),
        in_words=lambda _: "mean binary entropy",
        problem_type=MULTI_LABEL,
    ),
    "patience": Criterion(
        uncertainty=lambda logits, *_: normalised_entropy(logits),
        in_words=lambda p: "the first prediction" if p == 1 else f"{p} equal predictions in a row",
        compares_speed=False,
        parameter=Parameter("equal predictions in a row", smallest=1),
        candidates=lambda num_labels: (1,),
    ),
    "stability": Criterion(
        uncertainty=lambda logits, _, previous: change_of_score(logits, previous),
        in_words=lambda _: "change of the score from head to head",
        compares_heads=True,
        largest_speed=math.inf,
        problem_type=ONE_OUTPUT,
    ),
}

# Of a model for which nobody named a criterion.
_DEFAULTS = {SINGLE_LABEL: "entropy", MULTI_LABEL: "binary_entropy", ONE_OUTPUT: "stability"}


def default_criterion(problem_type: str | None) -> str:
    """Return the criterion of a model for which nobody named one.

    Args:
        problem_type: of its configuration; `None` is "single_label_classification".
    """
    return _DEFAULTS[problem_type or SINGLE_LABEL]


def criteria_for(problem_type: str | None) -> dict[str, Criterion]:
    """Return the part of `CRITERIA` that is for models of this `problem_type`, where `None` is one label."""
    return {name: one for name, one in CRITERIA.items() if one.problem_type == (problem_type or SINGLE_LABEL)}


def criterion_of(name: str, parameter: int) -> Criterion:
    """Return the criterion of that name.

    Args:
        name: a key of `CRITERIA`.
        parameter: the number that belongs to it; 0 for a criterion that has none.

    Raises:
        ValueError: an unknown name, or a parameter that does not fit it.
    """
    criterion = CRITERIA.get(name)
    if criterion is None:
        raise ValueError(f"unknown criterion {name!r}; choose one of {', '.join(CRITERIA)}")
    if not isinstance(parameter, int) or isinstance(parameter, bool):
        raise ValueError(f"the parameter of the criterion {name!r} must be an integer, got {parameter!r}")
    if criterion.parameter is None:
        if parameter != 0:
            raise ValueError(f"the criterion {name!r} has no parameter, so it must be 0, got {parameter}")
    elif not criterion.parameter.smallest <= parameter <= LARGEST_PARAMETER:
        raise ValueError(
            f"the parameter of the criterion {name!r} is a number of {criterion.parameter.meaning} and must be at "
            f"least {criterion.parameter.smallest} and at most {LARGEST_PARAMETER}, got {parameter}"
        )
    return criterion


def check_speeds(criterion: str, speeds: Iterable[float]) -> None:
    """Raise `ValueError` for a Speed that is none for this criterion; infinity never is."""
    largest = CRITERIA[criterion].largest_speed
    allowed = "be a finite number of at least 0" if largest == math.inf else f"lie in [0, {largest:g}]"
    for speed in speeds:
        if not 0.0 <= speed <= largest or math.isinf(speed):
            raise ValueError(f"speed must {allowed} and not be NaN, got {speed}")

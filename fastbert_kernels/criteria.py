"""The criteria by which a sample may leave: their names and their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Criterion(str, Enum):
    """When a sample may leave; `csrc/decision.h` and `reference.decide` have the formulas.

    ENTROPY: normalised entropy below Speed (FastBERT, section 3.3). TOP_K_ENTROPY: the same over the k most likely
    classes, for sets with many classes. CONFIDENCE: 1 - the largest probability below Speed. MARGIN: 1 - the difference
    of the two largest probabilities below Speed. BINARY_ENTROPY, for classes that are decisions of their own: the mean
    entropy of their probabilities, each from its own logit, below Speed. PATIENCE: so many exit heads in a row
    predicted the same class; Speed is not looked at. STABILITY, for models with one output: the score, the first logit,
    changed by less than Speed since the exit head before; the first head that is asked lets nobody out.
    """

    ENTROPY = "entropy"
    TOP_K_ENTROPY = "top_k_entropy"
    CONFIDENCE = "confidence"
    MARGIN = "margin"
    BINARY_ENTROPY = "binary_entropy"
    PATIENCE = "patience"
    STABILITY = "stability"


@dataclass(frozen=True)
class Parameter:
    """The one number that a criterion has beside Speed.

    Attributes:
        meaning: what it counts.
        smallest: the least that makes sense.
    """

    meaning: str
    smallest: int


@dataclass(frozen=True)
class _Traits:
    """What there is to know of a criterion beside its formula.

    Attributes:
        has_history: whether it looks at what the exit head before said, also where Speed lets nobody out.
        fewest_labels: that a classifier needs for it.
        parameter: None: it has none, and 0 in its place.
    """

    has_history: bool
    fewest_labels: int
    parameter: Parameter | None = None


_TRAITS = {
    Criterion.ENTROPY: _Traits(has_history=False, fewest_labels=2),
    Criterion.TOP_K_ENTROPY: _Traits(
        has_history=False,
        fewest_labels=2,
        parameter=Parameter("most likely classes, all of them where there are fewer", smallest=2),
    ),
    Criterion.CONFIDENCE: _Traits(has_history=False, fewest_labels=2),
    Criterion.MARGIN: _Traits(has_history=False, fewest_labels=2),
    Criterion.BINARY_ENTROPY: _Traits(has_history=False, fewest_labels=1),
    Criterion.PATIENCE: _Traits(
        has_history=True, fewest_labels=2, parameter=Parameter("equal predictions in a row", smallest=1)
    ),
    Criterion.STABILITY: _Traits(has_history=True, fewest_labels=1),
}
# One that is missing in the table raises here.
WITH_HISTORY = frozenset(criterion for criterion in Criterion if _TRAITS[criterion].has_history)
PARAMETERS = {
    criterion: parameter for criterion in Criterion if (parameter := _TRAITS[criterion].parameter) is not None
}


def check_criterion(criterion: str, parameter: int) -> Criterion:
    """Return the criterion of that name.

    Args:
        criterion: a name in `Criterion`.
        parameter: the number of `PARAMETERS`, or 0 for a criterion that has none.

    Raises:
        ValueError: an unknown name, or a parameter that does not fit it.
    """
    try:
        known = Criterion(criterion)
    except ValueError:
        names = ", ".join(name.value for name in Criterion)
        raise ValueError(f"unknown criterion {criterion!r}; choose one of {names}") from None
    wanted = PARAMETERS.get(known)
    if wanted is None and parameter != 0:
        raise ValueError(f"the criterion {known.value!r} has no parameter, so it must be 0, not {parameter}")
    if wanted is not None and parameter < wanted.smallest:
        raise ValueError(
            f"the parameter of the criterion {known.value!r} is a number of {wanted.meaning}, and must be at least "
            f"{wanted.smallest}, not {parameter}"
        )
    return known


def check_labels(criterion: str, labels: int) -> None:
    """Raise ValueError where a classifier has too few labels for a criterion.

    Args:
        criterion: a name in `Criterion`.
        labels: N.
    """
    fewest = _TRAITS[Criterion(criterion)].fewest_labels
    if labels < fewest:
        raise ValueError(f"a classifier needs at least {fewest} labels for {Criterion(criterion).value}, not {labels}")

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


# They look at what the exit head before said, also where Speed lets nobody out.
WITH_HISTORY = frozenset({Criterion.PATIENCE, Criterion.STABILITY})

# They are defined for models with one output, too.
_FOR_ONE_OUTPUT = frozenset({Criterion.BINARY_ENTROPY, Criterion.STABILITY})


@dataclass(frozen=True)
class Parameter:
    """The one number that a criterion has beside Speed.

    Attributes:
        meaning: what it counts.
        smallest: the least that makes sense.
    """

    meaning: str
    smallest: int


# Criteria that are not here have no parameter, and 0 in its place.
PARAMETERS: dict[Criterion, Parameter] = {
    Criterion.TOP_K_ENTROPY: Parameter("most likely classes, all of them where there are fewer", smallest=2),
    Criterion.PATIENCE: Parameter("equal predictions in a row", smallest=1),
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
    fewest = 1 if Criterion(criterion) in _FOR_ONE_OUTPUT else 2
    if labels < fewest:
        raise ValueError(f"a classifier needs at least {fewest} labels for {Criterion(criterion).value}, not {labels}")

"""The criteria by which a sample may leave: names, parameters, and the codes of the compiled kernels."""

from __future__ import annotations

from enum import Enum


class Criterion(str, Enum):
    """When a sample may leave; `csrc/decision.h` and `reference.decide` have the formulas.

    ENTROPY: normalised entropy below Speed (FastBERT, section 3.3). TOP_K_ENTROPY: the same over the k most likely
    classes, for sets with many classes. CONFIDENCE: 1 - the largest probability below Speed. PATIENCE: so many exit
    heads in a row predicted the same class; Speed is not looked at.
    """

    ENTROPY = "entropy"
    TOP_K_ENTROPY = "top_k_entropy"
    CONFIDENCE = "confidence"
    PATIENCE = "patience"

    @property
    def code(self) -> int:
        """The value of `enum class Criterion` in csrc/decision.h."""
        return list(Criterion).index(self)


def check_criterion(criterion: str, top_k: int, patience: int) -> Criterion:
    """The criterion of that name; ValueError for an unknown name or a parameter out of range.

    Args:
        top_k: classes that TOP_K_ENTROPY looks at, at least 2; all of them where there are fewer.
        patience: equal predictions in a row that PATIENCE asks for, at least 1.
    """
    try:
        known = Criterion(criterion)
    except ValueError:
        names = ", ".join(name.value for name in Criterion)
        raise ValueError(f"unknown criterion {criterion!r}; choose one of {names}") from None
    if top_k < 2:
        raise ValueError(f"top_k must be at least 2, not {top_k}: the entropy of one class is always 0")
    if patience < 1:
        raise ValueError(f"patience must be at least 1, not {patience}")
    return known

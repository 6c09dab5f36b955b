"""The criteria as tests see them: each with options for the ops, and its definition in plain Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from fastbert_hf import ExitRule
from fastbert_hf.exits.criteria import criteria_for
from fastbert_kernels.criteria import PARAMETERS, Criterion


def options_of(criterion: str, parameter: int) -> dict[str, Any]:
    """Options of an op; the parameter only for a criterion that has one."""
    named = Criterion(criterion)
    return {"criterion": named.value, "parameter": parameter if named in PARAMETERS else 0}


def _smallest(criteria: Iterable[Criterion]) -> list[dict[str, Any]]:
    return [options_of(name, PARAMETERS[name].smallest if name in PARAMETERS else 0) for name in criteria]


def assert_every_criterion(tried: Iterable[str]) -> None:
    """Fail where cases that stand in a table by hand leave a criterion out."""
    missing = set(Criterion) - {Criterion(name) for name in tried}
    assert not missing, f"no case of {', '.join(sorted(missing))}"


# All of them, with the smallest parameter.
EVERY_CRITERION = _smallest(Criterion)

# Those of models with classes, whose history is predictions and how often they were made: all but stability.
OF_CLASSES = [criterion for criterion in Criterion if criterion is not Criterion.STABILITY]
EVERY_OF_CLASSES = _smallest(OF_CLASSES)


def exit_rules(layers: tuple[int, ...], speed: float) -> dict[str, ExitRule]:
    """By its name a rule of every criterion for models of one label, at one Speed and with the smallest parameter."""
    return {
        name: ExitRule(
            layers,
            (speed,) * len(layers) if criterion.compares_speed else (),
            name,
            criterion.parameter.smallest if criterion.parameter else 0,
        )
        for name, criterion in criteria_for("single_label_classification").items()
    }


# Scores of six samples at three heads, and how far each is from that of the head before, where every step is exact; by
# a Speed of STABLE those whose change is below leave.
SCORES = [
    [0.0, 1.0, math.nan, -2.0, math.inf, 3.5],
    [0.25, 1.0, 1.0, -2.5, 3.0, math.nan],
    [0.125, 7.0, 1.25, -2.5, 3.0, 3.5],
]
CHANGES = [
    [math.inf, math.inf, math.nan, math.inf, math.nan, math.inf],
    [0.25, 0.0, math.inf, 0.5, math.inf, math.nan],
    [0.125, 6.0, 0.25, 0.0, 0.0, math.inf],
]
STABLE = 0.25

# By which one class of all is chosen, so that it is certain where its logit is far above the others.
OF_ONE_CHOICE = [options for options in EVERY_OF_CLASSES if options["criterion"] != Criterion.BINARY_ENTROPY.value]

# (logits, uncertainty by margin), where every step is exact.
EXACT_MARGINS = [
    ([2.0, 2.0], 1.0),
    ([2.0, 2.0, -1.0], 1.0),
    ([-3.0, 5.0, 0.0, 5.0], 1.0),
    ([-math.inf, 1.0, 1.0], 1.0),
    ([0.0, -math.inf], 0.0),
    ([-math.inf, 7.0, -math.inf, -math.inf], 0.0),
    ([200.0, 0.0, 0.0], 0.0),
]


def uncertainty_of(logits: Sequence[float], criterion: str, parameter: int, before: float = math.nan) -> float:
    """Return what the criterion compares, or what is reported where it compares nothing, of one sample's logits.

    Args:
        logits: of one head.
        criterion: by its name.
        parameter: of the criterion.
        before: the first logit of the head before; NaN where there was none.
    """
    if any(math.isnan(logit) for logit in logits):
        return math.nan
    if criterion == Criterion.STABILITY:
        return math.inf if math.isnan(before) else abs(logits[0] - before)
    formulas = {
        "entropy": _entropy,
        "top_k_entropy": lambda descending: _entropy(descending[:parameter]),
        "confidence": lambda descending: 1 - _softmax(descending)[0],
        "margin": lambda descending: 1 - _softmax(descending)[0] + _softmax(descending)[1],
        "binary_entropy": lambda logits: sum(map(_binary_entropy, logits)) / (len(logits) * math.log(2)),
        "patience": _entropy,
    }
    return formulas[Criterion(criterion).value](sorted(map(float, logits), reverse=True))


def _softmax(descending: list[float]) -> list[float]:
    exponentials = [math.exp(logit - descending[0]) for logit in descending]
    return [exponential / sum(exponentials) for exponential in exponentials]


def _binary_entropy(logit: float) -> float:
    p, rest = (1 / (1 + math.exp(distance)) for distance in (-logit, logit))
    return -sum(share * math.log(share) for share in (p, rest) if share > 0)


def _entropy(descending: list[float]) -> float:
    return -sum(p * math.log(p) for p in _softmax(descending) if p > 0) / math.log(len(descending))

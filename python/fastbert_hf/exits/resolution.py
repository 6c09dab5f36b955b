"""Speed: one place that reads what the user passed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import torch

from fastbert_hf.exits.criteria import (
    CRITERIA,
    SINGLE_LABEL,
    check_speeds,
    criteria_for,
    criterion_of,
    default_criterion,
)
from fastbert_hf.exits.rule import ExitRule

Speed: TypeAlias = float | torch.Tensor | Sequence[float] | ExitRule


@dataclass(frozen=True)
class ResolvedSpeed:
    """When the samples of one batch leave.

    The threshold of a sample at a layer is the smaller of its own Speed and the layer's, both float32. "patience" looks
    at no threshold, only at whether a head is asked.

    Attributes:
        samples: the Speed of all samples, infinity where `layer_speeds` alone decides; or floating point [B], where the
            caller had it.
        layer_speeds: for each of the L layers `None`, where no student classifier is asked; else a Speed, infinity
            where the samples' own alone decides. `None` for the last layer, where everybody leaves.
        criterion: as in `ExitRule`.
        parameter: as in `ExitRule`.
        zero_speed: as one of `layer_speeds`, of the student classifier before the first layer.
        batch_size: B.
        device: of the batch.
    """

    samples: float | torch.Tensor
    layer_speeds: tuple[float | None, ...]
    criterion: str
    parameter: int
    zero_speed: float | None
    batch_size: int
    device: torch.device | str

    @property
    def sample_speeds(self) -> torch.Tensor:
        """Return `samples` as float32 [B] on the device of the batch."""
        # Not functools.cached_property: before Python 3.12 all threads share its lock, which a child that is forked
        # while one of them has it never gets.
        kept: torch.Tensor | None = self.__dict__.get("_sample_speeds")
        if kept is None:
            if isinstance(self.samples, torch.Tensor):
                kept = self.samples.to(device=self.device, dtype=torch.float32)
            else:
                kept = torch.full((self.batch_size,), self.samples, dtype=torch.float32, device=self.device)
            self.__dict__["_sample_speeds"] = kept
        return kept

    @property
    def is_full_depth(self) -> bool:
        """Return True where no student classifier is asked, so that every sample runs through all layers."""
        return all(speed is None for speed in (self.zero_speed, *self.layer_speeds))

    def asks(self, layer: int) -> bool:
        """Return True if the student classifier behind `layer` is asked; 0 is that before the first one."""
        return self._speed_of(layer) is not None

    def thresholds(self, layer: int) -> torch.Tensor:
        """Return the threshold of every sample at `layer`, whose student classifier is asked, float32 [B]."""
        # As a tensor: a Python number would be compared in float64.
        return torch.minimum(self.sample_speeds, self.sample_speeds.new_tensor(self._speed_of(layer)))

    def _speed_of(self, layer: int) -> float | None:
        return self.zero_speed if layer == 0 else self.layer_speeds[layer - 1]


def resolve_speed(
    speed: Speed | None,
    *,
    batch_size: int,
    device: torch.device | str,
    exit_layers: Sequence[int],
    problem_type: str | None = None,
) -> ResolvedSpeed:
    """Return what `speed` says about each sample and each layer (Liu et al. 2020, section 3.3).

    Args:
        speed: a number in [0, 1] (for a model with one output, from 0 on the scale of its score) for all samples and
            layers, where 0 lets nobody leave early; a float tensor [B] with one Speed per sample; a sequence of
            numbers, one for each student classifier; an `ExitRule`; or `None` for full depth.
        batch_size: B.
        device: where the Speeds have to be.
        exit_layers: the layers, ascending, that have an exit head, 0 for exit zero; the last is L.
        problem_type: of the model's configuration. It says by which criterion numbers decide, and which an `ExitRule`
            may name.

    Returns:
        Full depth with `None`, 0, or a rule that lets nobody leave early. A student classifier that has the Speed 0 is
        not asked, since no uncertainty is below; by a criterion that compares heads it is, for the next one.

    Raises:
        TypeError: none of these.
        ValueError: NaN, a value outside [0, 1], a tensor of another shape than [B], another number of Speeds than there
            are student classifiers, or a rule that the model does not fit.
    """
    students = exit_layers[:-1]

    def resolved(
        samples: float | torch.Tensor,
        asked: Mapping[int, float],
        criterion: str = default_criterion(problem_type),
        parameter: int = 0,
    ) -> ResolvedSpeed:
        layers = tuple(asked.get(layer) for layer in range(1, exit_layers[-1] + 1))
        return ResolvedSpeed(samples, layers, criterion, parameter, asked.get(0), batch_size, device)

    if speed is None:
        return resolved(math.inf, {})
    if isinstance(speed, torch.Tensor):
        samples = _per_sample(speed, batch_size, default_criterion(problem_type))
        return resolved(samples, dict.fromkeys(students, math.inf))
    if isinstance(speed, Real) and not isinstance(speed, bool):
        value = float(speed)
        check_speeds(default_criterion(problem_type), [value])
        value = value if value <= torch.finfo(torch.float32).max else math.inf  # nothing changes by so much
        return resolved(value, dict.fromkeys(students, math.inf) if value > 0 else {})
    rule = speed if isinstance(speed, ExitRule) else _rule_of_numbers(speed, exit_layers, problem_type)
    _check_fits(rule, exit_layers, problem_type)
    criterion = criterion_of(rule.criterion, rule.parameter)
    speeds = rule.speeds if criterion.compares_speed else (math.inf,) * len(rule.layers)
    if not any(value > 0 for value in speeds):
        return resolved(math.inf, {})
    everyone = criterion.compares_heads
    asked = {layer: value for layer, value in zip(rule.layers, speeds, strict=True) if everyone or value > 0}
    return resolved(math.inf, asked, rule.criterion, rule.parameter)


def _per_sample(speed: torch.Tensor, batch_size: int, criterion: str) -> torch.Tensor:
    if not speed.is_floating_point():
        raise TypeError(f"a speed tensor must be floating point, got {speed.dtype}; convert it with .float()")
    if speed.shape != (batch_size,):
        raise ValueError(f"a speed tensor must have shape [{batch_size}] (the batch), got {list(speed.shape)}")
    # Written so that NaN fails the comparison.
    in_range = (speed >= 0) & (speed <= CRITERIA[criterion].largest_speed) & (speed < math.inf)
    if not bool(in_range.all()):
        rows = (~in_range).nonzero().flatten().tolist()
        try:
            check_speeds(criterion, [float(speed[rows[0]])])
        except ValueError as error:
            raise ValueError(f"{error}; wrong for sample(s) {rows}") from None
    return speed.detach()


def _rule_of_numbers(speed: object, exit_layers: Sequence[int], problem_type: str | None) -> ExitRule:
    """Return the rule that has one Speed for each student classifier."""
    students = tuple(exit_layers[:-1])
    numbers: list[Any] = list(speed) if isinstance(speed, Sequence) and not isinstance(speed, str | bytes) else [None]
    if not all(isinstance(number, Real) and not isinstance(number, bool) for number in numbers):
        raise TypeError(
            "speed must be None, a number, a tensor [B], a sequence of numbers (one for each student classifier) or an "
            f"ExitRule, got {type(speed).__name__}"
        )
    if len(numbers) != len(students):
        raise ValueError(
            f"one Speed for each of the {len(students)} student classifiers (behind layers {list(students)}) is "
            f"wanted, got {len(numbers)}; one Speed per sample is a tensor"
        )
    return ExitRule(students, tuple(float(number) for number in numbers), default_criterion(problem_type))


def _check_fits(rule: ExitRule, exit_layers: Sequence[int], problem_type: str | None) -> None:
    unknown = sorted(set(rule.layers) - set(exit_layers[:-1]))
    if unknown:
        raise ValueError(
            f"the exit rule asks student classifiers behind layers {unknown}; this model has them behind "
            f"{list(exit_layers[:-1])}"
        )
    known = criteria_for(problem_type)
    if rule.layers and rule.criterion not in known:
        theirs = CRITERIA[rule.criterion].problem_type
        raise ValueError(
            f"the criterion {rule.criterion!r} is for models of the problem_type {theirs!r}; samples of this one, "
            f"{problem_type or SINGLE_LABEL!r}, leave by {' or '.join(known)}"
        )

"""Speed: one place that reads what the user passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import torch

from fastbert_hf.exits.rule import CriterionName, ExitRule

Speed: TypeAlias = float | torch.Tensor | Sequence[float] | ExitRule


@dataclass(frozen=True)
class ResolvedSpeed:
    """When the samples of one batch leave.

    The threshold of a sample at a layer is the smaller of its own Speed and the layer's, both float32. "patience" looks
    at no threshold, only at whether a head is asked.

    Attributes:
        sample_speeds: float32 [B], on the device of the batch; ones where `layer_speeds` is given.
        layer_speeds: one Speed for each of the L layers, 0 where no student classifier is asked, and 0 for the last
            layer, where everybody leaves; `None`: every student classifier is asked with the samples' own Speeds.
        criterion: as in `ExitRule`.
        top_k: as in `ExitRule`.
        patience: as in `ExitRule`.
    """

    sample_speeds: torch.Tensor
    layer_speeds: tuple[float, ...] | None = None
    criterion: CriterionName = "entropy"
    top_k: int = 2
    patience: int = 1

    def asks(self, layer: int) -> bool:
        """Whether the student classifier behind `layer` (1-based), if it has one, is asked."""
        return self.layer_speeds is None or self.layer_speeds[layer - 1] > 0

    def thresholds(self, layer: int) -> torch.Tensor:
        """float32 [B], of every sample at `layer`."""
        if self.layer_speeds is None:
            return self.sample_speeds
        # As a tensor: a Python number would be compared in float64.
        return torch.minimum(self.sample_speeds, self.sample_speeds.new_tensor(self.layer_speeds[layer - 1]))


def resolve_speed(
    speed: Speed | None,
    *,
    batch_size: int,
    device: torch.device | str,
    exit_layers: Sequence[int],
    multi_label: bool = False,
) -> ResolvedSpeed | None:
    """What `speed` says about each sample and each layer (Liu et al. 2020, section 3.3).

    Args:
        speed: a number in [0, 1] for all samples and layers, where 0 lets nobody leave early; a float tensor [B] with
            one Speed per sample; a sequence of numbers, one for each student classifier; an `ExitRule`; or `None` for
            full depth.
        batch_size: B.
        device: where the Speeds have to be.
        exit_layers: the layers, ascending, that have an exit head; the last is L.
        multi_label: whether the model's classes are decisions of their own, for which only the entropy is defined.

    Returns:
        `None` for full depth: with `None`, 0, or a rule that asks no student classifier.

    Raises:
        TypeError: none of these.
        ValueError: NaN, a value outside [0, 1], a tensor of another shape than [B], another number of Speeds than there
            are student classifiers, or a rule that the model does not fit.
    """
    if speed is None:
        return None
    if isinstance(speed, torch.Tensor):
        return ResolvedSpeed(_per_sample(speed, batch_size).to(device=device, dtype=torch.float32))
    if isinstance(speed, Real) and not isinstance(speed, bool):
        value = float(speed)
        _check_range([value])
        if value == 0:
            return None
        return ResolvedSpeed(torch.full((batch_size,), value, dtype=torch.float32, device=device))
    if not isinstance(speed, ExitRule):
        speed = _rule_of_numbers(speed, exit_layers)
    return _per_layer(speed, batch_size, device, exit_layers, multi_label)


def _per_sample(speed: torch.Tensor, batch_size: int) -> torch.Tensor:
    if not speed.is_floating_point():
        raise TypeError(f"a speed tensor must be floating point, got {speed.dtype}; convert it with .float()")
    if speed.shape != (batch_size,):
        raise ValueError(f"a speed tensor must have shape [{batch_size}] (the batch), got {list(speed.shape)}")
    # Written so that NaN fails the comparison.
    in_range = (speed >= 0) & (speed <= 1)
    if not bool(in_range.all()):
        rows = (~in_range).nonzero().flatten().tolist()
        raise ValueError(f"speed must lie in [0, 1] and not be NaN; wrong for sample(s) {rows}")
    return speed.detach()


def _rule_of_numbers(speed: object, exit_layers: Sequence[int]) -> ExitRule:
    """One Speed for each student classifier."""
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
    _check_range(numbers)
    return ExitRule(students, tuple(float(number) for number in numbers))


def _per_layer(
    rule: ExitRule, batch_size: int, device: torch.device | str, exit_layers: Sequence[int], multi_label: bool
) -> ResolvedSpeed | None:
    unknown = sorted(set(rule.layers) - set(exit_layers[:-1]))
    if unknown:
        raise ValueError(
            f"the exit rule asks student classifiers behind layers {unknown}; this model has them behind "
            f"{list(exit_layers[:-1])}"
        )
    if multi_label and rule.criterion != "entropy":
        raise ValueError(
            f"samples of a multi-label model leave by their mean binary entropy (criterion 'entropy'), not by "
            f"{rule.criterion!r}"
        )
    speeds = [1.0] * len(rule.layers) if rule.criterion == "patience" else rule.speeds
    asked = dict(zip(rule.layers, speeds, strict=True))
    layer_speeds = tuple(asked.get(layer, 0.0) for layer in range(1, exit_layers[-1] + 1))
    if not any(layer_speeds):
        return None
    ones = torch.ones(batch_size, dtype=torch.float32, device=device)
    return ResolvedSpeed(ones, layer_speeds, rule.criterion, rule.top_k, rule.patience)


def _check_range(speeds: Sequence[float]) -> None:
    for speed in speeds:
        if not 0.0 <= speed <= 1.0:
            raise ValueError(f"speed must lie in [0, 1] and not be NaN, got {speed}")

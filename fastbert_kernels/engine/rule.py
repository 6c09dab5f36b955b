"""The rule by which samples leave: all that a call says of the exit heads, beside the Speed of each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastbert_kernels.criteria import WITH_HISTORY, Criterion, check_criterion, check_labels


@dataclass(frozen=True)
class Rule:
    """When a sample leaves before the last layer (Liu et al. 2020, section 3.3, with other criteria and a Speed per
    layer).

    The threshold of sample b at the head behind layer i is min(speed[b], layer_speeds[i - 1]), compared in float32;
    without `layer_speeds` it is the sample's own Speed everywhere. PATIENCE looks at no threshold, but a head that is
    not asked does not count in the streak either.

    Attributes:
        criterion: what is compared, see `fastbert_kernels.criteria`.
        parameter: the number that belongs to it; 0 for a criterion that has none.
        layer_speeds: for each of L layers a number from 0, infinity for no limit besides the samples' own Speeds, or
            None: the head behind this layer is not asked, and costs nothing. The last one is not looked at, since the
            teacher classifier lets everybody out; nor are those of layers without a head. None for the whole: every
            head is asked, without limits.
        early_exits: False: full depth, where no head but the last is asked. The criterion says which uncertainty is
            reported.

    Raises:
        ValueError: an unknown criterion, a number out of range, or Speeds of layers at full depth.
    """

    criterion: Criterion = Criterion.ENTROPY
    parameter: int = 0
    layer_speeds: tuple[float | None, ...] | None = None
    early_exits: bool = True

    def __post_init__(self) -> None:
        # The enum itself, also where its value was given: a plain string is equal to it, but has another hash.
        object.__setattr__(self, "criterion", check_criterion(self.criterion, self.parameter))
        for layer, speed in enumerate((self.layer_speeds or ())[:-1], start=1):
            if speed is not None and not speed >= 0:
                raise ValueError(f"the Speed of layer {layer} must be at least 0 and not NaN, got {speed}")
        if not self.early_exits and self.layer_speeds is not None:
            raise ValueError("without early exits no layer has a Speed: leave layer_speeds out")

    def asks(self, layer: int) -> bool:
        """Return whether the head behind `layer` (from 1), which is not the last, has to be asked if there is one.

        A Speed of 0 is none to ask at, except for criteria with a history: no uncertainty is below it.
        """
        if not self.early_exits or self.layer_speeds is None:
            return self.early_exits
        speed = self.layer_speeds[layer - 1]
        return speed is not None and (speed > 0 or self.criterion in WITH_HISTORY)

    def limits(self, depth: int) -> tuple[float, ...]:
        """Return of each layer the Speed above which no sample's own counts behind it, infinity where none is.

        Args:
            depth: L.
        """
        speeds = self.layer_speeds or (None,) * depth
        return tuple(math.inf if speed is None else speed for speed in speeds)

    def check_fits(self, depth: int, num_labels: int) -> None:
        """Raise ValueError where the rule is not for `depth` layers, or not for heads of so many labels."""
        check_labels(self.criterion, num_labels)
        self.check_layers(depth)

    def check_layers(self, depth: int) -> None:
        """Raise ValueError where the rule is not for `depth` layers."""
        if self.layer_speeds is not None and len(self.layer_speeds) != depth:
            raise ValueError(
                f"a rule for {len(self.layer_speeds)} layers cannot run {depth}; give layer_speeds one entry per layer"
            )


ENTROPY_RULE = Rule()  # the paper's: at every head, each sample's own Speed
FULL_DEPTH = Rule(early_exits=False)


def default_criterion(num_labels: int) -> Criterion:
    """Return a criterion whose uncertainty is a number wherever the logits are, for heads of N labels."""
    return Criterion.BINARY_ENTROPY if num_labels == 1 else Criterion.ENTROPY


def full_depth(num_labels: int) -> Rule:
    """Return full depth for heads of N labels, which may be one output."""
    return Rule(default_criterion(num_labels), early_exits=False)


def asked_layers(rule: Rule, heads: Sequence[object | None]) -> tuple[int, ...]:
    """Return the layers whose head is asked, ascending; the last is always among them.

    Args:
        rule: when samples leave.
        heads: L, None behind a layer without exit head.

    Raises:
        ValueError: the rule is for another number of layers.
    """
    depth = len(heads)
    rule.check_layers(depth)
    numbered = enumerate(heads, start=1)
    return tuple(number for number, head in numbered if number == depth or (head is not None and rule.asks(number)))

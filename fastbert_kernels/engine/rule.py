"""By which rule samples leave: what a call says of the exit heads, beside the Speed that each sample has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastbert_kernels.criteria import Criterion, check_criterion


@dataclass(frozen=True)
class Rule:
    """When a sample leaves before the last layer (Liu et al. 2020, section 3.3, with other criteria and a Speed per
    layer).

    The threshold of sample b at the head behind layer i is min(speed[b], layer_speeds[i - 1]), compared in float32;
    without `layer_speeds` it is the sample's own Speed everywhere. PATIENCE looks at no threshold, but a head that is
    not asked does not count in the streak either.

    Attributes:
        criterion, top_k, patience: see `fastbert_kernels.criteria`.
        layer_speeds: L numbers from 0; 0: the head behind this layer is not asked, and costs nothing; above 1, it lets
            everybody out, except whose own Speed is lower. The last one is not looked at, since the teacher classifier
            lets everybody out; nor are those of layers without a head.

    Raises:
        ValueError: an unknown criterion, or a number out of range.
    """

    criterion: Criterion = Criterion.ENTROPY
    top_k: int = 2
    patience: int = 1
    layer_speeds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        # The enum itself, also where its value was given: a plain string is equal to it, but has another hash.
        object.__setattr__(self, "criterion", check_criterion(self.criterion, self.top_k, self.patience))
        for layer, speed in enumerate((self.layer_speeds or ())[:-1], start=1):
            if not speed >= 0:
                raise ValueError(f"the Speed of layer {layer} must be at least 0 and not NaN, got {speed}")

    def asks(self, layer: int) -> bool:
        """Whether the head behind `layer` (from 1), if there is one, is asked."""
        speeds = self.layer_speeds
        return speeds is None or layer == len(speeds) or speeds[layer - 1] > 0

    def check_layers(self, depth: int) -> None:
        """Raises ValueError where the rule is not for `depth` layers."""
        if self.layer_speeds is not None and len(self.layer_speeds) != depth:
            raise ValueError(
                f"a rule for {len(self.layer_speeds)} layers cannot run {depth}; give layer_speeds one entry per layer"
            )


ENTROPY_RULE = Rule()  # the paper's: at every head, each sample's own Speed


def asked_layers(rule: Rule | None, heads: Sequence[object | None]) -> tuple[int, ...]:
    """The layers whose head is asked, ascending; the last is always among them, and for None (full depth) the only one.

    Args:
        heads: L, None behind a layer without exit head.

    Raises:
        ValueError: the rule is for another number of layers.
    """
    depth = len(heads)
    if rule is None:
        return (depth,)
    rule.check_layers(depth)
    numbered = enumerate(heads, start=1)
    return tuple(number for number, head in numbered if number == depth or (head is not None and rule.asks(number)))

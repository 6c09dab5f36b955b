"""When samples leave: the rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

CriterionName: TypeAlias = Literal["entropy", "top_k_entropy", "confidence", "patience"]


@dataclass(frozen=True)
class ExitRule:
    """When a sample leaves. The teacher classifier always lets everybody out and is not named.

    Attributes:
        layers: the layers, ascending, whose student classifier is asked at all; empty for full depth.
        speeds: one Speed for each of `layers`; empty for "patience", which looks at none.
        criterion: "entropy", the paper's (Liu et al. 2020, section 3.3): normalised entropy below Speed;
            "top_k_entropy": the same over the `top_k` most likely classes, renormalised; "confidence": 1 - the
            largest probability below Speed; "patience": `patience` heads in a row, of those asked, predicted the
            same class.
        top_k: at least 2.
        patience: at least 1.

    Raises:
        ValueError: an unknown criterion, layers that do not ascend, or numbers out of range.
    """

    layers: tuple[int, ...]
    speeds: tuple[float, ...] = ()
    criterion: CriterionName = "entropy"
    top_k: int = 2
    patience: int = 1

    def __post_init__(self) -> None:
        if self.criterion not in get_args(CriterionName):
            names = ", ".join(get_args(CriterionName))
            raise ValueError(f"unknown criterion {self.criterion!r}; choose one of {names}")
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"the layers of an exit rule must ascend, got {list(self.layers)}")
        wanted = 0 if self.criterion == "patience" else len(self.layers)
        if len(self.speeds) != wanted:
            raise ValueError(
                f"{self.criterion} over {len(self.layers)} layers takes {wanted} Speeds, got {self.speeds}"
            )
        if not all(0 <= speed <= 1 for speed in self.speeds):
            raise ValueError(f"Speeds must lie in [0, 1] and not be NaN, got {list(self.speeds)}")
        if self.top_k < 2 or self.patience < 1:
            raise ValueError(f"top_k must be at least 2 and patience at least 1, got {self.top_k} and {self.patience}")

    @classmethod
    def one_speed(
        cls, layers: Iterable[int], speed: float, criterion: CriterionName = "entropy", top_k: int = 2
    ) -> ExitRule:
        """The same Speed at all `layers`."""
        layers = tuple(layers)
        return cls(layers, (speed,) * len(layers), criterion, top_k=top_k)

"""When samples leave: the rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastbert_hf.exits.criteria import check_speeds, criterion_of


@dataclass(frozen=True)
class ExitRule:
    """When a sample leaves. The teacher classifier always lets everybody out and is not named.

    Attributes:
        layers: the layers, ascending, whose student classifier is asked at all, 0 for exit zero; empty for full depth.
        speeds: one Speed for each of `layers`; empty for a criterion that compares with none ("patience"). Where it is
            0 nobody leaves, and the classifier is asked only by a criterion that compares heads ("stability").
        criterion: a name in `exits.criteria.CRITERIA`, which says what each looks at and for which models it is;
            "entropy" is the paper's (Liu et al. 2020, section 3.3): normalised entropy below Speed.
        parameter: the number that belongs to the criterion; 0 for one that has none.

    Raises:
        ValueError: an unknown criterion, layers that do not ascend, or numbers out of range.
    """

    layers: tuple[int, ...]
    speeds: tuple[float, ...] = ()
    criterion: str = "entropy"
    parameter: int = 0

    def __post_init__(self) -> None:
        criterion = criterion_of(self.criterion, self.parameter)
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"the layers of an exit rule must ascend, got {list(self.layers)}")
        wanted = len(self.layers) if criterion.compares_speed else 0
        if len(self.speeds) != wanted:
            raise ValueError(
                f"{self.criterion} over {len(self.layers)} layers takes {wanted} Speeds, got {self.speeds}"
            )
        check_speeds(self.criterion, self.speeds)

    @classmethod
    def full_depth(cls, criterion: str = "entropy", parameter: int = 0) -> ExitRule:
        """Return the rule that asks nobody; the criterion matters only to what is said about it."""
        return cls((), (), criterion, parameter)

    @classmethod
    def one_speed(cls, layers: Iterable[int], speed: float, criterion: str = "entropy", parameter: int = 0) -> ExitRule:
        """Return the rule that has the same Speed at all `layers`."""
        layers = tuple(layers)
        return cls(layers, (speed,) * len(layers), criterion, parameter)

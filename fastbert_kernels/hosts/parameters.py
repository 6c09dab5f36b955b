"""Which parameters of a host model the engine reads, and whose they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

Parameters = list[tuple[nn.Module, str]]  # as `hosts.derived.Derived` takes them


def linear_parameters(modules: Sequence[nn.Module]) -> Parameters:
    """List weight and bias of each module in turn."""
    return [(module, name) for module in modules for name in ("weight", "bias")]


@dataclass(frozen=True)
class ParameterGroups:
    """The parameters of a model's encoder layers and exit heads: one list of all, so that one comparison tells whether
    any has changed, and the way back from their values to layers and heads.

    Attributes:
        layers: the parameters of each layer that has a group of its own.
        heads: the parameters of each exit head.
    """

    layers: Sequence[Parameters]
    heads: Sequence[Parameters]

    def flat(self) -> Parameters:
        """List the parameters of all groups, those of the layers first."""
        return list(itertools.chain.from_iterable((*self.layers, *self.heads)))

    def split(self, values: Sequence[Tensor]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Return the values of `flat()` as those of each layer and those of each head."""
        remaining = iter(values)
        groups = [list(itertools.islice(remaining, len(group))) for group in (*self.layers, *self.heads)]
        return groups[: len(self.layers)], groups[len(self.layers) :]

"""Who leaves: the one place that decides it, for the model in plain PyTorch and for recorded exits.

Two forms stand elsewhere for a reason: `calibration.curve.sweep` finds by sorting, for all Speeds at once, where each
sample comes to be below, and `conversion.comparison` decides as the original implementation does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy.typing as npt
import torch

from fastbert_hf.exits.criteria import criterion_of
from fastbert_hf.exits.resolution import ResolvedSpeed

Values = TypeVar("Values", torch.Tensor, npt.NDArray[Any])


def below_speed(uncertainty: Values, speed: Values) -> Values:
    """Return who leaves by a criterion that compares with Speed: never where the uncertainty is NaN.

    Args:
        uncertainty: float32, of any shape.
        speed: float32, broadcast to it.

    Returns:
        bool, of the shape of both.
    """
    return uncertainty < speed


def first_heads(exits: torch.Tensor) -> torch.Tensor:
    """Return which head lets each sample go first, int64 [B] in 0..E-1.

    Args:
        exits: bool [B, E], whether the head lets the sample go; written to: the last one lets everybody go.
    """
    exits[:, -1] = True
    return exits.byte().argmax(dim=1)  # the first of equal maxima


class ExitDecision:
    """The decision over one batch of B samples; asked at the exit layers in their order.

    Args:
        speed: when they leave.
    """

    def __init__(self, speed: ResolvedSpeed) -> None:
        self._speed = speed
        self._criterion = criterion_of(speed.criterion, speed.parameter)
        # Of the head asked before; no class is -1, no head predicts it twice.
        self._prediction = torch.full_like(speed.sample_speeds, -1, dtype=torch.int64)
        self._streak = torch.zeros_like(self._prediction)
        self._scores = torch.full_like(speed.sample_speeds, math.nan)[:, None]  # [B, 1]

    def asks(self, layer: int) -> bool:
        """Return True if the student classifier behind `layer` is asked."""
        return self._speed.asks(layer)

    def uncertainty(self, logits: torch.Tensor, samples: torch.Tensor | None = None) -> torch.Tensor:
        """Return what is compared with Speed.

        Args:
            logits: float32 [S, N], of the head that is asked now.
            samples: int64 [S], their places in the batch; `None`: no head was asked before.

        Returns:
            float32 [S].
        """
        before = self._scores[samples] if self._criterion.compares_heads and samples is not None else None
        return self._criterion.uncertainty(logits, self._speed.parameter, before)

    def every_uncertainty(self, all_logits: torch.Tensor) -> torch.Tensor:
        """Return the uncertainty of all E heads as if all were asked, float32 [B, E], of their logits [B, E, N]."""
        return self._criterion.of_all_heads(all_logits, self._speed.parameter)

    def leaves(self, layer: int, logits: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the answers of the student classifier behind `layer`, which is asked.

        Args:
            layer: 1-based; 0 for exit zero.
            logits: float32 [S, N], of the samples that are still there.
            samples: int64 [S], their places in the batch.

        Returns:
            Their uncertainty, float32 [S], and whether they leave, bool [S]: never where it is NaN.
        """
        uncertainty = self.uncertainty(logits, samples)
        if self._criterion.compares_heads:
            self._scores[samples] = logits[:, :1].detach()
        if self._criterion.compares_speed:
            return uncertainty, below_speed(uncertainty, self._speed.thresholds(layer)[samples])
        unknown = uncertainty.isnan()
        prediction = logits.argmax(dim=-1)
        repeated = prediction == self._prediction[samples]
        streak = torch.where(repeated, self._streak[samples] + 1, 1)
        self._prediction[samples] = torch.where(unknown, -1, prediction)
        self._streak[samples] = torch.where(unknown, 0, streak)
        return uncertainty, (streak >= self._speed.parameter) & ~unknown

    def first_exits(self, exit_layers: Sequence[int], all_logits: torch.Tensor) -> torch.Tensor:
        """Return which exit head lets each sample go, int64 [B] in 0..E-1; arguments as in `exits`."""
        return self.exits(exit_layers, all_logits)[0]

    def exits(self, exit_layers: Sequence[int], all_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which exit head lets each sample go, for a batch whose heads have all answered, and how sure it is.

        Args:
            exit_layers: the E layers with an exit head, ascending.
            all_logits: float32 [B, E, N].

        Returns:
            int64 [B], in 0..E-1, and the uncertainty there, float32 [B].
        """
        size, heads = all_logits.shape[:2]
        exits = torch.zeros(size, heads, dtype=torch.bool, device=all_logits.device)
        uncertainties = all_logits.new_zeros(size, heads)  # of a head that is not asked never looked at
        everybody = torch.arange(size, device=exits.device)
        for head, layer in enumerate(exit_layers[:-1]):
            if self.asks(layer):
                uncertainties[:, head], exits[:, head] = self.leaves(layer, all_logits[:, head], everybody)
        uncertainties[:, -1] = self.uncertainty(all_logits[:, -1], everybody)
        first = first_heads(exits)
        return first, uncertainties[everybody, first]

"""Who leaves: the one place that decides it, layer after layer, for the model in plain PyTorch."""

from __future__ import annotations

import torch

from fastbert_hf.exits.resolution import ResolvedSpeed
from fastbert_hf.exits.uncertainty import uncertainty, uncertainty_by


class ExitDecision:
    """Decides over one batch of B samples; asked at the exit layers in their order.

    Args:
        speed: when they leave.
        multi_label: whether the model's classes are decisions of their own.
    """

    def __init__(self, speed: ResolvedSpeed, multi_label: bool) -> None:
        self._speed, self._multi_label = speed, multi_label
        # Of the head asked before; no class is -1, no head predicts it twice.
        self._prediction = torch.full_like(speed.sample_speeds, -1, dtype=torch.int64)
        self._streak = torch.zeros_like(self._prediction)

    def asks(self, layer: int) -> bool:
        """Whether the student classifier behind `layer` is asked at all."""
        return self._speed.asks(layer)

    def uncertainty(self, logits: torch.Tensor) -> torch.Tensor:
        """float32 [...] of logits [..., N]: what is compared with Speed."""
        if self._multi_label:
            return uncertainty(logits, multi_label=True)
        return uncertainty_by(logits, self._speed.criterion, self._speed.top_k)

    def leaves(self, layer: int, logits: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The student classifier behind `layer` has answered.

        Args:
            layer: 1-based.
            logits: float32 [S, N], of the samples that are still there.
            samples: int64 [S], their places in the batch.

        Returns:
            Their uncertainty, float32 [S], and whether they leave, bool [S]: never where it is NaN.
        """
        uncertainty = self.uncertainty(logits)
        if self._speed.criterion != "patience":
            return uncertainty, uncertainty < self._speed.thresholds(layer)[samples]
        unknown = uncertainty.isnan()
        prediction = logits.argmax(dim=-1)
        repeated = prediction == self._prediction[samples]
        streak = torch.where(repeated, self._streak[samples] + 1, 1)
        self._prediction[samples] = torch.where(unknown, -1, prediction)
        self._streak[samples] = torch.where(unknown, 0, streak)
        return uncertainty, (streak >= self._speed.patience) & ~unknown

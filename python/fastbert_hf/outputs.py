"""What a FastBERT model returns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class FastBertOutput(ModelOutput):
    """Result of one forward pass; rows are in input order.

    Attributes:
        loss: scalar float32 of `logits` against the labels, only with labels: the cross-entropy, or the binary
            cross-entropy of a multi-label model.
        logits: float32 [B, N], of the exit head at which each sample left.
        hidden_states: with `output_hidden_states=True`, the input of the first layer and the output of every layer,
            L + 1 tensors [B, length, H].
        attentions: with `output_attentions=True`, the attention probabilities of every layer, L tensors
            [B, heads, length, length].
        uncertainty: float32 [B] in [0, 1], of `logits` by the criterion of the call (`exits.criteria`; mean
            binary entropy for a multi-label model); NaN where they are not finite. Of a model with one output the
            change of the score since the exit head before, infinity where none was asked.
        exit_layer: int64 [B], number of encoder layers executed for the sample, 1..L; 0 at exit zero.
        all_logits: float32 [B, E, N], of all E exit heads, those of `config.exit_layers`; only with
            `output_all_exits=True`.
        all_uncertainty: float32 [B, E]; only with `output_all_exits=True`.
    """

    loss: torch.Tensor | None = None
    # Always set; ModelOutput wants a default on every field but the first.
    logits: torch.Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    uncertainty: torch.Tensor = None  # type: ignore[assignment]
    exit_layer: torch.Tensor = None  # type: ignore[assignment]
    all_logits: torch.Tensor | None = None
    all_uncertainty: torch.Tensor | None = None


def warn_if_not_finite(uncertainty: torch.Tensor) -> None:
    """Raise one `RuntimeWarning` naming the samples whose uncertainty [B] is NaN.

    Does nothing for tensors outside host memory, where looking would make the host wait for the device.
    """
    if uncertainty.device.type != "cpu":
        return
    lost = uncertainty.isnan()
    if bool(lost.any()):
        rows = lost.nonzero().flatten().tolist()
        warnings.warn(
            f"uncertainty is not finite for sample(s) {rows}: NaN or inf in the input or the weights; "
            "these samples cannot exit before the last layer",
            RuntimeWarning,
            stacklevel=2,
        )


def probabilities_of(logits: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """Return the softmax of logits [..., N] over the classes; multi-label: the sigmoid of each."""
    return logits.sigmoid() if multi_label else logits.softmax(dim=-1)


def predictions_of(logits: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """Return the most likely class, int64 [...], of logits [..., N]; multi-label: bool [..., N], whether p > 1/2.

    Raises:
        ValueError: N = 1, a score.
    """
    if logits.shape[-1] == 1:
        raise ValueError("a model with one output gives a score and no class; compare its logits")
    return logits > 0 if multi_label else logits.argmax(dim=-1)


def same_predictions(logits: torch.Tensor, others: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """Return whether two answers are the same, bool [...], from the logits [..., N] of both; multi-label: in every
    class.

    Raises:
        ValueError: as `predictions_of`.
    """
    same = predictions_of(logits, multi_label) == predictions_of(others, multi_label)
    return same.all(dim=-1) if multi_label else same

"""One answer for each text where long texts are read in passages."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from fastbert_hf.exits.criteria import CRITERIA, ONE_OUTPUT, default_criterion
from fastbert_hf.exits.decision import ExitDecision
from fastbert_hf.exits.resolution import Speed
from fastbert_hf.outputs import probabilities_of

# Tokens that a passage shares with the one before it; "trained": as in the model's training; `None`: long texts are
# cut off instead.
Stride: TypeAlias = int | Literal["trained"] | None

_TINY = torch.finfo(torch.float64).tiny


class Answers(NamedTuple):
    """Logits float32 [n, N], uncertainties float32 [n] and exit layers int64 [n], on the CPU."""

    logits: torch.Tensor
    uncertainty: torch.Tensor
    exit_layer: torch.Tensor


def answers_of_texts(
    model: Any,
    passages: Answers,
    text_of_passage: torch.Tensor,
    num_texts: int,
    speed: Speed | None,
    speedup: float | None = None,
) -> Answers:
    """Return the answer of each text from those of its passages; a text with one passage has that one's.

    The probabilities are the mean of those of the passages, the uncertainty is that of the mean, and the exit layer is
    that of the passage that went deepest.

    Args:
        model: the FastBERT model that gave the answers.
        passages: of all passages, in any order.
        text_of_passage: int64 [n], in 0..num_texts-1; every text has a passage.
        num_texts: number of texts.
        speed: as in the call of the model.
        speedup: as in the call of the model.
    """
    if model.config.problem_type == ONE_OUTPUT and len(passages.logits) > num_texts:
        raise ValueError(
            "some texts were divided into passages, and the scores of passages make no score of a text: leave "
            "stride out"
        )
    if len(passages.logits) == num_texts:  # one each
        order = text_of_passage.argsort()
        return Answers(*(rows[order] for rows in passages))
    logits = mean_of_passages(passages.logits, text_of_passage, num_texts, model.config.multi_label)
    uncertainty = passages.uncertainty.new_empty(num_texts)
    uncertainty[text_of_passage] = passages.uncertainty
    exit_layer = passages.exit_layer.new_zeros(num_texts)
    exit_layer.scatter_reduce_(0, text_of_passage, passages.exit_layer, "amax")
    several = torch.bincount(text_of_passage, minlength=num_texts) > 1
    if several.any():
        uncertainty[several] = _uncertainty_at_exit(model, logits[several], speed, speedup)
    return Answers(logits, uncertainty, exit_layer)


def mean_of_passages(
    logits: torch.Tensor, text_of_passage: torch.Tensor, num_texts: int, multi_label: bool
) -> torch.Tensor:
    """Return logits of each text whose probabilities are the mean of those of its passages.

    Args:
        logits: float [n, ..., N], of all passages.
        text_of_passage: int64 [n], as in `answers_of_texts`.
        num_texts: number of texts.
        multi_label: True: probabilities are the sigmoid, else the softmax.

    Returns:
        [num_texts, ..., N]; of a text with one passage the logits of that one, to the bit.
    """
    of_texts = logits.new_empty(num_texts, *logits.shape[1:])
    of_texts[text_of_passage] = logits
    passages = torch.bincount(text_of_passage, minlength=num_texts)
    several = passages > 1
    if several.any():
        every = probabilities_of(logits.double(), multi_label)
        total = every.new_zeros(of_texts.shape).index_add(0, text_of_passage, every)[several]
        mean = total / passages[several].view(-1, *[1] * (logits.dim() - 1))
        of_texts[several] = (mean.logit(1e-12) if multi_label else mean.clamp_min(_TINY).log()).to(logits.dtype)
    return of_texts


def _uncertainty_at_exit(model: Any, logits: torch.Tensor, speed: Speed | None, speedup: float | None) -> torch.Tensor:
    """Return what the criterion of the call makes of `logits` [n, N]; one Speed per sample is for the paper's."""
    if isinstance(speed, torch.Tensor):
        return CRITERIA[default_criterion(model.config.problem_type)].uncertainty(logits, 0, None)
    return ExitDecision(model.resolve_speed(speed, speedup, 1)).uncertainty(logits)

"""The ways of a batch through a FastBERT model in plain PyTorch: to full depth, past every exit head, or until one lets
its samples go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastbert_hf import backbones
from fastbert_hf.exits.decision import ExitDecision
from fastbert_hf.exits.resolution import ResolvedSpeed
from fastbert_hf.outputs import FastBertOutput


@dataclass(frozen=True)
class PaddedBatch:
    """Checked inputs of B samples.

    Attributes:
        input_ids: int64 or int32 [B, L]; `None` with `inputs_embeds`.
        valid: bool [B, L], False for padding.
        token_type_ids: int64 or int32 [B, L], or `None` for one segment.
        position_ids: int64 [B, L], rows of the backbone's position table.
        inputs_embeds: float [B, L, E] in place of ids.
    """

    input_ids: torch.Tensor | None
    valid: torch.Tensor
    token_type_ids: torch.Tensor | None
    position_ids: torch.Tensor
    inputs_embeds: torch.Tensor | None = None

    def rows(self, stays: torch.Tensor) -> PaddedBatch:
        """Return some of the samples, bool [B], as a batch of their own."""
        kept: dict[str, Any] = {name: None if value is None else value[stays] for name, value in vars(self).items()}
        return PaddedBatch(**kept)


@dataclass(frozen=True)
class Asked:
    """What a call asks for beside the answers: the answers of all exit heads, hidden states, attentions."""

    all_exits: bool = False
    hidden_states: bool = False
    attentions: bool = False


def exit_states(model: Any, batch: PaddedBatch) -> Iterator[torch.Tensor]:
    """The hidden states [B, L, H] behind every exit layer in turn, computed as they are asked for; B >= 1."""
    hidden = _embed(model, batch)
    layer_mask = backbones.make_layer_mask(model.backbone, hidden, batch.valid)
    for number, layer in enumerate(model.layers, start=1):
        hidden = _run_layer(model, layer, hidden, layer_mask)
        if number in model.config.exit_layers:
            yield hidden


def run_full_depth(model: Any, batch: PaddedBatch, speed: ResolvedSpeed) -> FastBertOutput:
    """All layers; the teacher classifier alone answers, and `speed`, which asks no other, says how sure it is."""
    for hidden in exit_states(model, batch):
        last_hidden = hidden
    logits = model.teacher_classifier(last_hidden, batch.valid).float()
    exit_layer = torch.full((logits.shape[0],), len(model.layers), dtype=torch.int64, device=logits.device)
    return FastBertOutput(logits=logits, uncertainty=ExitDecision(speed).uncertainty(logits), exit_layer=exit_layer)


def run_whole(model: Any, batch: PaddedBatch, speed: ResolvedSpeed, asked: Asked) -> FastBertOutput:
    """`run_all_exits` with the hidden states and the attentions of all layers."""
    hidden = _embed(model, batch)
    layer_mask = backbones.make_layer_mask(model.backbone, hidden, batch.valid)
    states, attentions = [hidden], []
    for layer in model.layers:
        if asked.attentions:
            with _autograd(model):
                hidden, attention = backbones.run_layer_with_attention(model.backbone, layer, hidden, layer_mask)
            attentions.append(attention)
        else:
            hidden = _run_layer(model, layer, hidden, layer_mask)
        states.append(hidden)
    behind = [states[number] for number in model.config.exit_layers if number > 0]
    answers = dict(_answer_at_exits(model, batch, speed, behind))
    if not asked.all_exits:
        del answers["all_logits"], answers["all_uncertainty"]
    return FastBertOutput(
        hidden_states=tuple(states) if asked.hidden_states else None,
        attentions=tuple(attentions) if asked.attentions else None,
        **answers,
    )


def run_all_exits(model: Any, batch: PaddedBatch, speed: ResolvedSpeed) -> FastBertOutput:
    """All layers and all exit heads on all samples; what `speed` selects is as in `run_adaptive`."""
    return _answer_at_exits(model, batch, speed, exit_states(model, batch))


def _answer_at_exits(
    model: Any, batch: PaddedBatch, speed: ResolvedSpeed, states: Iterable[torch.Tensor]
) -> FastBertOutput:
    answers = [head(hidden, batch.valid).float() for head, hidden in zip(model.layer_heads, states, strict=True)]
    if model.exit_zero is not None:
        answers.insert(0, _answer_at_zero(model, batch))
    return output_of(model, speed, torch.stack(answers, dim=1))


def _answer_at_zero(model: Any, batch: PaddedBatch) -> torch.Tensor:
    """The logits [B, N] of exit zero."""
    if batch.input_ids is None:
        raise ValueError(
            "exit zero reads token ids and inputs_embeds has none; give input_ids, or an ExitRule without layer 0"
        )
    return model.exit_zero(batch.input_ids, batch.valid).float()


def output_of(model: Any, speed: ResolvedSpeed, all_logits: torch.Tensor) -> FastBertOutput:
    """Return what a call at `speed` with all exits answers, from the logits [B, E, N] of all exit heads."""
    decision = ExitDecision(speed)
    first, uncertainty = decision.exits(model.config.exit_layers, all_logits)
    rows = torch.arange(first.shape[0], device=first.device)
    return FastBertOutput(
        logits=all_logits[rows, first],
        uncertainty=uncertainty,
        exit_layer=torch.tensor(model.config.exit_layers, device=first.device)[first],
        all_logits=all_logits,
        all_uncertainty=decision.every_uncertainty(all_logits),
    )


def run_adaptive(model: Any, batch: PaddedBatch, speed: ResolvedSpeed) -> FastBertOutput:
    """Layer by layer on the survivors only; what has left is written to its row of the result."""
    batch_size, num_layers, device = len(batch.valid), len(model.layers), batch.valid.device
    logits = torch.zeros(batch_size, model.num_labels, dtype=torch.float32, device=device)
    uncertainties = torch.zeros(batch_size, dtype=torch.float32, device=device)
    exit_layer = torch.full((batch_size,), num_layers, dtype=torch.int64, device=device)

    decision = ExitDecision(speed)
    heads = dict(zip(model.config.exit_layers, model.heads, strict=True))
    alive = torch.arange(batch_size, device=device)  # input row of every survivor
    if decision.asks(0):
        logits = _answer_at_zero(model, batch)
        uncertainties, exits = decision.leaves(0, logits, alive)
        exit_layer[exits] = 0  # of the others all three are written later
        alive = alive[~exits]
        if alive.numel() == 0:
            return FastBertOutput(logits=logits, uncertainty=uncertainties, exit_layer=exit_layer)
        batch = batch.rows(~exits)
    hidden, valid = _embed(model, batch), batch.valid
    layer_mask = backbones.make_layer_mask(model.backbone, hidden, valid)
    for number, layer in enumerate(model.layers, start=1):
        hidden = _run_layer(model, layer, hidden, layer_mask)
        last = number == num_layers
        if not last and not decision.asks(number):
            continue
        layer_logits = heads[number](hidden, valid).float()
        if last:
            layer_uncertainty = decision.uncertainty(layer_logits, alive)
            exits = torch.ones_like(layer_uncertainty, dtype=torch.bool)
        else:
            layer_uncertainty, exits = decision.leaves(number, layer_logits, alive)
        leaving = alive[exits]
        if leaving.numel() == 0:
            continue
        logits[leaving] = layer_logits[exits]
        uncertainties[leaving] = layer_uncertainty[exits]
        exit_layer[leaving] = number

        stays = ~exits
        alive = alive[stays]
        if alive.numel() == 0:
            break
        hidden, valid = hidden[stays], valid[stays]
        layer_mask = backbones.make_layer_mask(model.backbone, hidden, valid)
    return FastBertOutput(logits=logits, uncertainty=uncertainties, exit_layer=exit_layer)


def run_while_kept(
    model: Any,
    batch: PaddedBatch,
    layers: Sequence[int],
    keep: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a model with one output, and let the caller say behind some layers who goes on.

    Args:
        model: a `FastBertForSequenceClassification` that gives scores.
        batch: B >= 1 samples.
        layers: behind whose student classifiers the caller is asked.
        keep: (layer, rows [S] of the batch that are left, their scores float32 [S]) -> who goes on, bool [S].

    Returns:
        The rows that are left behind the last layer, int64 [S], and their scores, float32 [S].
    """
    heads = dict(zip(model.config.exit_layers, model.heads, strict=True))
    hidden, valid = _embed(model, batch), batch.valid
    rows = torch.arange(len(valid), device=valid.device)
    layer_mask = backbones.make_layer_mask(model.backbone, hidden, valid)
    for number, layer in enumerate(model.layers, start=1):
        if len(rows) == 0:
            break
        hidden = _run_layer(model, layer, hidden, layer_mask)
        if number not in layers:
            continue
        stays = keep(number, rows, heads[number](hidden, valid).float()[:, 0])
        if not bool(stays.all()):
            rows, hidden, valid = rows[stays], hidden[stays], valid[stays]
            layer_mask = backbones.make_layer_mask(model.backbone, hidden, valid)
    scores = model.teacher_classifier(hidden, valid).float()[:, 0] if len(rows) else hidden.new_zeros(0).float()
    return rows, scores


def empty_output(model: Any, batch: PaddedBatch, asked: Asked) -> FastBertOutput:
    """For a `batch` of no samples, which the layers of Transformers do not take."""
    # float32 whatever torch.set_default_dtype says.
    all_logits = torch.zeros(0, len(model.heads), model.num_labels, dtype=torch.float32, device=model.device)
    all_uncertainty = all_logits[:, :, 0]
    length, num_layers, config = batch.valid.shape[1], len(model.layers), model.config
    states = all_logits.new_zeros(0, length, config.hidden_size, dtype=model.dtype)
    attentions = states.new_zeros(0, config.num_attention_heads, length, length)
    return FastBertOutput(
        logits=all_logits[:, -1],
        hidden_states=(states,) * (num_layers + 1) if asked.hidden_states else None,
        attentions=(attentions,) * num_layers if asked.attentions else None,
        uncertainty=all_uncertainty[:, -1],
        exit_layer=torch.zeros(0, dtype=torch.int64, device=model.device),
        all_logits=all_logits if asked.all_exits else None,
        all_uncertainty=all_uncertainty if asked.all_exits else None,
    )


def _embed(model: Any, batch: PaddedBatch) -> torch.Tensor:
    with _autograd(model):
        return backbones.embed(
            model.backbone, batch.input_ids, batch.position_ids, batch.token_type_ids, batch.inputs_embeds
        )


def _run_layer(model: Any, layer: nn.Module, hidden: torch.Tensor, layer_mask: Any) -> torch.Tensor:
    with _autograd(model):
        return backbones.run_layer(layer, hidden, layer_mask)


def _autograd(model: Any) -> torch.set_grad_enabled:
    """Off in a frozen backbone."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and not model.frozen_for_distillation)

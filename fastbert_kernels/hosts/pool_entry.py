"""Texts of a `fastbert_hf` model on their way into a pool: checked as they come, embedded later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels.engine.arrival import Arrival
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.hosts.at_once import rule_of
from fastbert_kernels.hosts.backbones import embed, is_row_wise
from fastbert_kernels.hosts.base import Entry
from fastbert_kernels.hosts.exit_zero import ask_exit_zero
from fastbert_kernels.hosts.packed_inputs import Rows, checked_rows, tokens_of


@torch.no_grad()
def enter(
    model: Any, encoder: Encoder, *inputs: Any, speed: Any = None, speedup: float | None = None, **named: Any
) -> Entry:
    """Check texts whose tokens lie one text behind the other, and say when they leave.

    Args:
        *inputs: the first three of `forward_packed`, of any number of texts.
        speed: as there, and so the next.
        speedup: or None.
        **named: those of `inputs` that are given by their names.

    Raises:
        TypeError, ValueError, RuntimeError: as `forward_packed`.
    """
    rows = checked_rows(model, *inputs, **named)
    resolved = model.resolve_speed(speed, speedup, len(rows))
    if rows.ids.device != resolved.device:
        raise ValueError(f"input_ids are on {rows.ids.device}, but the model is on {resolved.device}; move them there")
    rule = rule_of(resolved, model.config.exit_layers)
    if not resolved.asks(0) or len(rows) == 0:
        # The caller may go on to write to what it gave, and on a GPU the pool computes on another stream.
        speeds = resolved.sample_speeds.clone() if isinstance(speed, Tensor) else resolved.sample_speeds
        arrival = Arrival(rows.copied(), rows.lengths, speeds, rule).in_company()
        if rows.ids.is_cuda:
            torch.cuda.current_stream(rows.ids.device).synchronize()
        return Entry(arrival)
    at_zero = ask_exit_zero(model, encoder, tokens_of(model, [rows]), resolved)
    stays = at_zero.stays
    if not bool(stays.any()):
        return Entry(None, at_zero.left())
    rest = rows.kept(stays)
    speeds = resolved.sample_speeds[stays]
    return Entry(Arrival(rest, rest.lengths, speeds, rule, at_zero.handed_on()), at_zero.left())


@torch.no_grad()
def embed_rows(model: Any, encoder: Encoder, texts: Sequence[Rows]) -> Tensor:
    """Return what the first layer takes of several arrivals, as `Host.embed`."""
    backbone = model.backbone
    if texts[0].ids.device.type != "cpu" or is_row_wise(backbone, encoder):
        return embed(backbone, encoder, tokens_of(model, texts))
    # Products of PyTorch give other bits in other company.
    return torch.cat([embed(backbone, encoder, tokens_of(model, [each])) for each in texts])

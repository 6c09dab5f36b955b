"""Exit zero: who leaves before any token is embedded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import ops
from fastbert_kernels.criteria import WITH_HISTORY
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.packed import Results
from fastbert_kernels.engine.rule import default_criterion
from fastbert_kernels.engine.spans import Left
from fastbert_kernels.hosts.backbones import Tokens


@dataclass(frozen=True)
class AtZero:
    """What exit zero said of B samples.

    Attributes:
        logits: float32 [B, N].
        uncertainty: float32 [B].
        history: int32 [B, 2], as of `PackedBatch`.
        stays: bool [B].
        criterion: that decided.
    """

    logits: Tensor
    uncertainty: Tensor
    history: Tensor
    stays: Tensor
    criterion: str

    def left(self) -> Left:
        """Return the answers of those who leave, with their places in the batch."""
        places = (~self.stays).nonzero().flatten()
        return Left(self.logits[places], self.uncertainty[places], torch.zeros_like(places), places)

    def handed_on(self) -> Tensor | None:
        """Return what the next head has to know of this one, of those who stay, as `PackedBatch.history`."""
        return self.history[self.stays] if self.criterion in WITH_HISTORY else None

    def merged(self, rest: Results | None) -> Results:
        """Return the results of all, with those that the encoder gave who stayed; None where nobody did."""
        merged = Results(self.logits, self.uncertainty, torch.zeros_like(self.stays, dtype=torch.int64))
        if rest is not None:
            for name, values in vars(rest).items():
                getattr(merged, name)[self.stays] = values
        return merged


def ask_exit_zero(model: Any, encoder: Encoder, tokens: Tokens, resolved: Any) -> AtZero:
    """Ask the hashed bag of a `fastbert_hf` model, which has one, by a rule that asks it."""
    speed = torch.clamp(resolved.sample_speeds, max=resolved.zero_speed)
    answers = _answers(model, encoder, tokens, speed, resolved.criterion, resolved.parameter)
    return AtZero(*answers, resolved.criterion)


def logits_at_zero(model: Any, encoder: Encoder, tokens: Tokens) -> Tensor:
    """Return the logits of the hashed bag, float32 [B, N]."""
    speed = torch.zeros(len(tokens.cu_seqlens) - 1)
    return _answers(model, encoder, tokens, speed, default_criterion(model.num_labels).value, 0)[0]


def staying(tokens: Tokens, stays: Tensor) -> Tokens:
    """Return the tokens of the samples that stay, bool [B], one of them at least."""
    lengths = tokens.cu_seqlens.diff()
    rows = stays.repeat_interleave(lengths.long(), output_size=len(tokens.ids))
    ends = lengths[stays].cumsum(0, dtype=torch.int32)
    return dataclasses.replace(
        tokens,
        ids=tokens.ids[rows],
        positions=tokens.positions[rows],
        segments=None if tokens.segments is None else tokens.segments[rows],
        cu_seqlens=torch.cat([ends.new_zeros(1), ends]),
    )


def _answers(
    model: Any, encoder: Encoder, tokens: Tokens, speed: Tensor, criterion: str, parameter: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bag = model.exit_zero
    # The table is float32 unless the model's weights are narrow, and read as it is now.
    plain = isinstance(encoder, LayerLoop) and encoder.backend == "reference"
    return ops.hashed_bag(
        bag.table.float(),
        bag.bias.float(),
        tokens.ids,
        tokens.cu_seqlens,
        speed,
        criterion=criterion,
        parameter=parameter,
        backend="reference" if plain else "auto",
    )

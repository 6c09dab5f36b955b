"""What is known of a checkpoint once its format is, and the arithmetic that the formats share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from fastbert_hf.configuration import FastBertConfig

_PROBE_TEXTS = 24
_PROBE_TOKENS = 48


@dataclass(frozen=True)
class Probe:
    """Random texts on which the original and the converted model are compared.

    Attributes:
        ids: int64 [B, T].
        segments: int64 [B, T], 0 and, in half of the texts, 1 from some token on; 0 at padding.
        valid: bool [B, T], tokens; they lie on the left.
    """

    ids: torch.Tensor
    segments: torch.Tensor
    valid: torch.Tensor

    @classmethod
    def make(cls, vocabulary: int, positions: int, segments: int) -> Probe:
        """The same for the same sizes: of the word table, of the position table, and segments that texts can have."""
        generator = torch.Generator().manual_seed(0)
        longest = min(_PROBE_TOKENS, positions)
        lengths = torch.randint(1, longest + 1, (_PROBE_TEXTS,), generator=generator)
        lengths[:2] = torch.tensor([longest, 1])
        place = torch.arange(longest)
        valid = place < lengths[:, None]
        begin = (lengths + 1) // 2 if segments > 1 else torch.full_like(lengths, longest)
        begin[::2] = longest
        ids = torch.randint(vocabulary, valid.shape, generator=generator)
        return cls(ids * valid, ((place >= begin[:, None]) & valid).long(), valid)


@dataclass(frozen=True)
class Original:
    """A checkpoint, understood.

    Attributes:
        config: of the converted model.
        parameters: of the converted model, float64, by their names there.
        mapped: name in the checkpoint -> name in the converted model.
        left_out: name in the checkpoint -> why the converted model does not have it.
        notes: what was decided, and what it means for inputs; a sentence each.
        special_tokens: how texts and pairs become tokens, as `tokenizers.processors.TemplateProcessing` writes it.
        probe: random texts.
        logits: float64 [B, L, N], what the original's own arithmetic makes of them.
        includes_speed: whether a sample leaves also when its uncertainty equals the Speed.
    """

    config: FastBertConfig
    parameters: Mapping[str, torch.Tensor]
    mapped: Mapping[str, str]
    left_out: Mapping[str, str]
    notes: Sequence[str]
    special_tokens: tuple[str, str]
    probe: Probe
    logits: torch.Tensor
    includes_speed: bool = False


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Multi-head attention of projected [B, T, D]; `mask` [B, T] is added to the scores of the keys."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores + mask[:, None, None, :]
    return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


class Weights:
    """The parameters of a checkpoint in float64, by module."""

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        self._state = {name: value.double() for name, value in state.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._state[name]

    def linear(self, module: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self[f"{module}.weight"], self[f"{module}.bias"])

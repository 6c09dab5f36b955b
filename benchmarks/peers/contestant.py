"""What a contestant of the comparison is, and how one is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fastbert_hf import FastBertForSequenceClassification

FULL_DEPTH_PEER, STATIC_PEER, ADAPTIVE_PEER, OURS = "full-depth peer", "static peer", "adaptive peer", "ours"
TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


class NotAvailable(Exception):
    """This contestant cannot take part; the message is one line with the reason."""


@dataclass(frozen=True)
class Request:
    """One call: input_ids and attention_mask, int64 [B, L], padded on the right; speed, float32 [B], or None for full
    depth."""

    input_ids: Tensor
    attention_mask: Tensor
    speed: Tensor | None = None


@dataclass(frozen=True)
class Answer:
    """logits [B, N] float32; exit_layer [B] and uncertainty [B] of contestants that have them."""

    logits: Tensor
    exit_layer: Tensor | None = None
    uncertainty: Tensor | None = None


@dataclass(frozen=True)
class Setup:
    """What contestants are made from.

    Attributes:
        model: FastBERT in float32 on `device`, in eval mode. Contestants may share its parameters and leave them as
            they are.
        threads: for engines with threads of their own.
        folder: for files; gone after the run.
    """

    model: FastBertForSequenceClassification
    device: torch.device
    threads: int
    folder: Path

    def classifier(self) -> nn.Module:
        """Return the model as every engine can run it: (input_ids, attention_mask) -> logits [B, N] at full depth.

        It has the Transformers encoder as `backbone`, and shares its parameters with `model`.
        """
        from peers.transformers_eager import Classifier

        return Classifier(self.model)


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Contestant:
    """Something that answers requests.

    Attributes:
        run: answers one request; the answer may be on any device.
        full_depth: whether it takes requests without Speed.
        adaptive: whether it takes requests with a Speed.
        layers: encoder layers of a static model; None for all of the model's.
        own_full_depth: name of the contestant that is the same model in the same engine at full depth, where that is
            another one.
        largest_batch: of one request; None for any.
        release: gives memory back that the engine kept from earlier runs.
        note: what a reader of the figures should know.
    """

    run: Callable[[Request], Answer]
    full_depth: bool = True
    adaptive: bool = False
    layers: int | None = None
    own_full_depth: str | None = None
    largest_batch: int | None = None
    release: Callable[[], None] = _nothing
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """A contestant before it is made.

    Attributes:
        name: for tables.
        group: one of the four above.
        dtype: of the arithmetic, decides the tolerances.
        build: makes it, or raises `NotAvailable`; libraries other than torch and Transformers are imported here.
        devices: types that it runs on.
    """

    name: str
    group: str
    dtype: str
    build: Callable[[Setup], Contestant]
    devices: tuple[str, ...] = ("cpu", "cuda")

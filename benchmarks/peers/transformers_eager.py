"""Transformers as it comes: full depth in float32 (the baseline of all speed-ups) and bfloat16, and models with fewer
layers."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.machine import computes_in_bfloat16
from peers.contestant import (
    FULL_DEPTH_PEER,
    STATIC_PEER,
    TORCH_DTYPES,
    Answer,
    Contestant,
    Entry,
    NotAvailable,
    Request,
    Setup,
)

BASELINE = "Transformers eager float32"


class Classifier(nn.Module):
    """The first `layers` layers of a FastBERT as a plain Transformers BERT, and the exit head behind them.

    Parameters are shared with `model`.
    """

    def __init__(self, model: FastBertForSequenceClassification, layers: int | None = None) -> None:
        super().__init__()
        self.backbone = model.backbone
        if layers is not None:
            config = copy.deepcopy(model.backbone.config)
            config.num_hidden_layers = layers
            with torch.device("meta"):  # its own parameters are not used
                self.backbone = type(model.backbone)(config, add_pooling_layer=False)
            self.backbone.embeddings = model.backbone.embeddings
            self.backbone.encoder.layer = model.backbone.encoder.layer[:layers]
        self.head = model.heads[-1 if layers is None else layers - 1]
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, N] in the dtype of the computation."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(hidden, attention_mask)


def full_depth(dtype: str) -> Entry:
    def build(setup: Setup) -> Contestant:
        classifier = classifier_in(setup, dtype)
        return Contestant(lambda request: answer(classifier, request))

    return Entry(f"Transformers eager {dtype}", FULL_DEPTH_PEER, dtype, build)


def static(name: str, share: int) -> Entry:
    """A model of 1/`share` of the layers, rounded up."""

    def build(setup: Setup) -> Contestant:
        layers = math.ceil(len(setup.model.heads) / share)
        classifier = Classifier(setup.model, layers)
        return Contestant(
            lambda request: answer(classifier, request),
            layers=layers,
            own_full_depth=BASELINE,
            note=f"Transformers eager, {layers} layers",
        )

    return Entry(name, STATIC_PEER, "float32", build)


def classifier_in(setup: Setup, dtype: str) -> nn.Module:
    """The classifier in `dtype`, for engines that run PyTorch's own operators; raises `NotAvailable` for bfloat16 on a
    processor without instructions for it, where PyTorch emulates it."""
    if dtype == "bfloat16" and setup.device.type == "cpu" and not computes_in_bfloat16():
        raise NotAvailable("this processor has no instructions for bfloat16")
    classifier = setup.classifier()
    return classifier if dtype == "float32" else copy.deepcopy(classifier).to(TORCH_DTYPES[dtype])


def answer(classifier: nn.Module, request: Request) -> Answer:
    return Answer(classifier(request.input_ids, request.attention_mask).float())


ENTRIES = (full_depth("float32"), full_depth("bfloat16"))
STATIC_ENTRIES = (static("static, half the layers", 2), static("static, a quarter of the layers", 4))

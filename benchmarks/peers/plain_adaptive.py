"""Early exit as public codes write it: padded batches, plain PyTorch, survivors by boolean indexing."""

from __future__ import annotations

import copy

import torch

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.exits.uncertainty import normalised_entropy
from peers.contestant import ADAPTIVE_PEER, TORCH_DTYPES, Answer, Contestant, Entry, Request, Setup
from peers.transformers_eager import BASELINE


def run_adaptive(model: FastBertForSequenceClassification, request: Request) -> Answer:
    """Transformers layers and the model's exit heads on what is left of the padded batch."""
    assert request.speed is not None
    mask, speed = request.attention_mask, request.speed
    size, depth = len(mask), len(model.heads)
    hidden = model.backbone.embeddings(input_ids=request.input_ids)
    bias = (1.0 - mask[:, None, None, :].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
    index = torch.arange(size, device=mask.device)
    logits = torch.zeros(size, model.num_labels, device=mask.device)
    exit_layer = torch.full((size,), depth, device=mask.device)
    for number, (layer, head) in enumerate(zip(model.backbone.encoder.layer, model.heads, strict=True), start=1):
        hidden = layer(hidden, bias)
        layer_logits = head(hidden, mask).float()
        keep = ~(normalised_entropy(layer_logits) < speed)
        if number == depth:
            keep = torch.zeros_like(keep)
        logits[index[~keep]] = layer_logits[~keep]
        exit_layer[index[~keep]] = number
        hidden, mask, bias, index, speed = hidden[keep], mask[keep], bias[keep], index[keep], speed[keep]
        if not len(index):
            break
    return Answer(logits, exit_layer)


def adaptive(dtype: str, device: str) -> Entry:
    def build(setup: Setup) -> Contestant:
        model = setup.model if dtype == "float32" else copy.deepcopy(setup.model).to(TORCH_DTYPES[dtype])
        return Contestant(
            lambda request: run_adaptive(model, request),
            full_depth=False,
            adaptive=True,
            own_full_depth=BASELINE.replace("float32", dtype),
        )

    return Entry(f"plain PyTorch adaptive {dtype}", ADAPTIVE_PEER, dtype, build, devices=(device,))


ENTRIES = (adaptive("float32", "cpu"), adaptive("bfloat16", "cuda"))

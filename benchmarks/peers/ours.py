"""This project: the FastBERT model unpatched, and patched in each dtype."""

from __future__ import annotations

import copy

import fastbert_kernels
from fastbert_hf import FastBertForSequenceClassification
from peers.contestant import OURS, TORCH_DTYPES, Answer, Contestant, Entry, NotAvailable, Request, Setup


def _contestant(model: FastBertForSequenceClassification) -> Contestant:
    def run(request: Request) -> Answer:
        output = model(request.input_ids, request.attention_mask, speed=request.speed)
        return Answer(output.logits, output.exit_layer)

    return Contestant(run, adaptive=True)


def unpatched(dtype: str, device: str) -> Entry:
    def build(setup: Setup) -> Contestant:
        model = setup.model if dtype == "float32" else copy.deepcopy(setup.model).to(TORCH_DTYPES[dtype])
        return _contestant(model)

    return Entry(f"ours unpatched {dtype}", OURS, dtype, build, devices=(device,))


def patched(dtype: str) -> Entry:
    def build(setup: Setup) -> Contestant:
        try:
            return _contestant(
                fastbert_kernels.patch(copy.deepcopy(setup.model), dtype=TORCH_DTYPES[dtype], warm_up="on demand")
            )
        except (ValueError, RuntimeError) as error:
            raise NotAvailable(str(error)) from error

    return Entry(f"ours patched {dtype}", OURS, dtype, build)


ENTRIES = (
    unpatched("float32", "cpu"),
    unpatched("bfloat16", "cuda"),
    patched("float32"),
    patched("bfloat16"),
    patched("int8"),
)

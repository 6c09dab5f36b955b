"""The loop over encoder layers, from which samples leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastbert_kernels import ops
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.weights import EncoderWeights


@dataclass
class Results:
    """One row per sample of the batch that came in: logits [B, N] float32, uncertainty [B] float32, exit_layer [B]
    int64."""

    logits: Tensor
    uncertainty: Tensor
    exit_layer: Tensor


def run_encoder(weights: EncoderWeights, batch: PackedBatch, *, adaptive: bool, backend: str) -> Results:
    """Runs every sample through the layers until its uncertainty is below its Speed, or to the last layer.

    Args:
        weights: L layers and L exit heads.
        batch: B >= 1 samples.
        adaptive: False runs to full depth, and only the teacher classifier is evaluated.
        backend: of the ops, "auto" or a name of `fastbert_kernels.backends.BACKENDS`.
    """
    depth = len(weights.layers)
    size = batch.sample_index.shape[0]
    results = Results(
        logits=batch.hidden.new_empty(size, weights.num_labels, dtype=torch.float32),
        uncertainty=batch.hidden.new_empty(size, dtype=torch.float32),
        exit_layer=batch.hidden.new_empty(size, dtype=torch.int64),
    )
    for layer in range(1, depth + 1):
        encoder_layer = weights.layers[layer - 1].get()
        batch.hidden = encoder_layer(batch.hidden, batch.cu_seqlens, batch.max_seqlen)
        last = layer == depth
        if not last and not adaptive:
            continue
        survivors = _let_out(weights, batch, results, layer, last, backend)
        if survivors == 0:
            break
    return results


def _let_out(
    weights: EncoderWeights, batch: PackedBatch, results: Results, layer: int, last: bool, backend: str
) -> int:
    """Evaluates the exit head behind `layer` and compacts the batch in place; returns how many samples stay."""
    head = weights.heads[layer - 1].get()
    logits, uncertainty, history, keep = ops.exit_head(
        batch.hidden,
        batch.cu_seqlens,
        batch.speed,
        *head.tensors(),
        projection_packed=head.projection_packed,
        history=batch.history,
        backend=backend,
    )
    if last:
        keep = torch.zeros_like(keep)  # whatever their uncertainty
    batch.hidden, batch.cu_seqlens, batch.sample_index, batch.speed, batch.history, counts = ops.compact(
        batch.hidden,
        batch.cu_seqlens,
        keep,
        batch.sample_index,
        batch.speed,
        history,
        logits.float(),
        uncertainty.float(),
        layer,
        results.logits,
        results.uncertainty,
        results.exit_layer,
        backend=backend,
    )
    if last:
        return 0
    survivors, tokens = counts.tolist()  # the one host read of this layer
    batch.hidden = batch.hidden[:tokens]
    batch.cu_seqlens = batch.cu_seqlens[: survivors + 1]
    batch.sample_index = batch.sample_index[:survivors]
    batch.speed = batch.speed[:survivors]
    batch.history = batch.history[:survivors]
    return survivors

"""The loop over encoder layers, from which samples leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastbert_kernels import ops
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.weights import HeadWeights


@dataclass(frozen=True)
class LayerLoop:
    """Layers and exit heads one after another, for every device.

    Attributes:
        layers, heads: L of each.
        backend: of the ops, "auto" or a name of `fastbert_kernels.backends.BACKENDS`.
    """

    layers: list[TorchLayer]
    heads: list[HeadWeights]
    backend: str

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].dtype

    def run(self, batch: PackedBatch, *, adaptive: bool) -> Results:
        """See `engine.encoder.Encoder`."""
        depth = len(self.layers)
        num_labels = self.heads[0].output_bias.shape[0]
        results = Results.empty(batch.hidden, batch.sample_index.shape[0], num_labels)
        for number, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True), start=1):
            batch.hidden = layer(batch.hidden, batch.cu_seqlens, batch.max_seqlen)
            last = number == depth
            if not last and not adaptive:
                continue
            if _let_out(head, batch, results, number, last, self.backend) == 0:
                break
        return results


def _let_out(head: HeadWeights, batch: PackedBatch, results: Results, layer: int, last: bool, backend: str) -> int:
    """Evaluates the exit head behind `layer` and compacts the batch in place; returns how many samples stay."""
    logits, uncertainty, history, keep = ops.exit_head(
        batch.hidden, batch.cu_seqlens, batch.speed, *head.tensors(), history=batch.history, backend=backend
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

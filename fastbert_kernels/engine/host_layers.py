"""The host path: a host model's own encoder layers, with fused exit heads and compaction between them.

Between layers the batch is packed, so that heads and compaction see no padding; for the time of a layer it is padded to
the longest sample that is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.spans import LayeredEncoder, PackedState
from fastbert_kernels.engine.weights import ExitHead

# (layer, hidden [B, L, H], valid [B, L] bool) -> hidden [B, L, H]
CallLayer = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(kw_only=True)
class PaddedBatch(PackedBatch):
    """A batch whose rows include the padding of each sample, for hosts whose answers depend on it.

    All samples have `max_seqlen` rows; for heads and compaction all of them are tokens.

    Attributes:
        valid: bool [B, max_seqlen], of the samples in front of a span; a sample's row is found by its `sample_index`.
    """

    valid: Tensor

    def renumber(self) -> None:
        self.valid = self.valid[self.sample_index.long()]
        super().renumber()

    @classmethod
    def concatenate(cls, batches: Sequence[Any]) -> PaddedBatch:
        """Make one batch of several.

        Args:
            batches: at least one, each of this class; renumbered.

        Raises:
            ValueError: their samples have different numbers of rows.
        """
        if len(lengths := {batch.max_seqlen for batch in batches}) > 1:
            raise ValueError(f"samples that keep their padding must all have the same length, not {sorted(lengths)}")
        for batch in batches:
            batch.renumber()
        joined = PackedBatch.concatenate(batches)
        return PaddedBatch(**vars(joined), valid=torch.cat([batch.valid for batch in batches]))


@dataclass(frozen=True)
class HostEncoder(LayeredEncoder):
    """An encoder of the host's own layers, which run in their own precision; every sample has a token.

    Attributes:
        layers: L.
        heads: L, None behind a layer without exit head; the last layer has one.
        call_layer: runs one of the layers on a padded batch. What it returns at padding is not looked at, except for a
            `PaddedBatch`.
        backend: of the ops, "auto" or a name of `fastbert_kernels.backends.BACKENDS`.
        hidden_dtype: of the hidden states.
    """

    layers: Sequence[nn.Module]
    heads: Sequence[ExitHead | None]
    call_layer: CallLayer
    backend: str
    hidden_dtype: torch.dtype

    @property
    def dtype(self) -> torch.dtype:
        return self.hidden_dtype

    def _run_span(self, state: PackedState, until: int) -> Results:
        padding = _Padding(state.batch)
        layers = [HostLayer(layer, self.call_layer, padding, self.dtype) for layer in self.layers]
        return self._loop.with_layers(layers)._run_span(state, until)

    @property
    def _loop(self) -> LayerLoop:
        """Keep what a loop has of the heads, whose layers are those of one call."""
        # Without the lock that functools.cached_property has before Python 3.12, which a forked child may never get.
        kept: LayerLoop | None = self.__dict__.get("_kept_loop")
        if kept is None:
            kept = self.__dict__.setdefault("_kept_loop", LayerLoop([], self.heads, self.backend))
        return kept


@dataclass(frozen=True)
class HostLayer:
    """A layer of the host as `engine.loop.LayerLoop` takes it, for one call of the encoder."""

    module: nn.Module
    call_layer: CallLayer
    padding: _Padding
    dtype: torch.dtype

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        padded = self.padding.pad(hidden)
        output = self.call_layer(self.module, padded, self.padding.valid)
        if not isinstance(output, Tensor) or output.shape != padded.shape:
            got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(
                f"call_layer must return hidden states {list(padded.shape)} as the {type(self.module).__name__} got "
                f"them, not {got}"
            )
        return self.padding.pack(output).to(hidden.dtype)


class _Padding:
    """Where the rows of a batch are when it is padded. Worked out again when samples have left, not for every layer."""

    valid: Tensor  # [B, L] bool of the samples that are left

    def __init__(self, batch: PackedBatch) -> None:
        self._batch = batch  # the loop replaces its tensors
        self._samples = -1
        self._rows: Tensor | None = None  # [B * L], of each place the packed row; None where there is no padding
        self._places = torch.empty(0)  # [T], of each packed row the place

    def pad(self, hidden: Tensor) -> Tensor:
        """[T, H] -> [B, L, H]; padding repeats the sample's own first row, so that no NaN of another gets in."""
        samples = self._batch.sample_index.shape[0]
        if samples != self._samples:
            self._samples = samples
            self._lay_out(hidden.shape[0])
        rows = hidden if self._rows is None else hidden[self._rows]
        return rows.unflatten(0, (samples, -1))

    def pack(self, padded: Tensor) -> Tensor:
        """[B, L, H] -> [T, H]"""
        rows = padded.flatten(0, 1)
        return rows if self._rows is None else rows[self._places]

    def _lay_out(self, tokens: int) -> None:
        batch, samples = self._batch, self._samples
        device = batch.cu_seqlens.device
        self._rows = None
        if isinstance(batch, PaddedBatch):
            self.valid = batch.valid[batch.sample_index.long()]
            return
        lengths = (batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]).long()
        if tokens != samples * batch.max_seqlen:
            # The one read of the host beside the survivor counts: it comes right behind them, when the device is idle
            # anyway, and layers are shorter for it.
            batch.max_seqlen = int(lengths.max())
        longest = batch.max_seqlen
        column = torch.arange(longest, device=device)
        self.valid = column < lengths[:, None]
        if tokens == samples * longest:
            return
        begins = batch.cu_seqlens[:-1].long()
        self._rows = torch.where(self.valid, begins[:, None] + column, begins[:, None]).flatten()
        sample = torch.repeat_interleave(torch.arange(samples, device=device), lengths, output_size=tokens)
        self._places = sample * longest + torch.arange(tokens, device=device) - begins[sample]

"""The end of a layer by the compiled CUDA kernels: one native call for what `ops` does in two, in memory that is kept
for all layers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import _extension, backends
from fastbert_kernels.engine.host_copies import HostCopy, HostCountsPool
from fastbert_kernels.engine.packed import Results, check_counts
from fastbert_kernels.engine.spans import PackedState
from fastbert_kernels.engine.weights import ExitHead, PooledHeadWeights
from fastbert_kernels.ops import library
from fastbert_kernels.ops.attentive_head import cuda_attentive_head
from fastbert_kernels.ops.compact import empty_survivors
from fastbert_kernels.ops.pooled_exit_head import cuda_pooled_head


class CudaHeads:
    """Exit heads as the kernels read them, each made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[ExitHead, Any]] = {}

    def of(self, head: ExitHead) -> Any:
        """Return the native head, None where the kernels do not take it. Writes to its tensors are seen."""
        known = self._made.get(id(head))
        if known is None:
            known = self._made[id(head)] = head, _native_head(head)
        return known[1]


def _native_head(head: ExitHead) -> Any:
    tensors = (*head.weights, *head.biases) if isinstance(head, PooledHeadWeights) else tuple(head.tensors)
    if not all(tensor.is_contiguous() and tensor.data_ptr() % 16 == 0 for tensor in tensors):
        return None  # the ops take copies
    try:
        if isinstance(head, PooledHeadWeights):
            return cuda_pooled_head(head)
        return cuda_attentive_head(head)
    except (backends.Unsupported, TypeError):  # another dtype is the reference's
        return None


class CudaEnds:
    """The layer ends of one run.

    The batch's tensors for samples keep room for those who left, until `finish`; its rows and bounds do not.
    """

    def __init__(self, heads: Mapping[int, Any], state: PackedState, results: Results, pool: HostCountsPool) -> None:
        """
        Args:
            heads: native ones, by the number of their layer.
            state: whose batch is run.
            results: a row for each of its samples.
            pool: of the loop.
        """
        self._let_out = _extension.module().let_out
        self._heads, self._batch, self._rule, self._pool = heads, state.batch, state.rule, pool
        self._written = results.logits, results.uncertainty, results.exit_layer
        self._samples = len(state)
        self._decided = library.decision_results(state.batch.hidden, len(state), results.logits.shape[1])
        self._rooms: list[tuple[Tensor, ...]] = []
        self._host = pool.take(state.batch.hidden.device)
        for name in ("cu_seqlens", "sample_index", "speed", "history"):
            if (tensor := getattr(state.batch, name)) is not None:
                setattr(state.batch, name, tensor.contiguous())
        self._speed: HostCopy | None = None

    def let_out(self, layer: int, last: bool, layer_speed: float | Tensor | None) -> tuple[int, int]:
        """Ask the head behind `layer` as `loop.let_out` does, and wait for how many are left.

        Returns:
            Survivors and their tokens; none behind the last layer, for which nobody waits.
        """
        batch, rule = self._batch, self._rule
        if self._speed is None and batch.speed.is_cuda and not last:
            self._speed = HostCopy(batch.speed)
        (hidden,) = library.aligned(batch.hidden.contiguous())
        room = self._next_room()
        self._let_out(
            self._heads[layer],
            hidden,
            batch.cu_seqlens,
            batch.speed,
            None if layer_speed is None else batch.speed.clamp(max=layer_speed),
            batch.history,
            batch.sample_index,
            rule.criterion.value,
            rule.parameter,
            torch.zeros_like(self._decided[3]) if last else None,
            layer,
            self._decided,
            self._written,
            room,
        )
        batch.hidden, batch.cu_seqlens, batch.sample_index, batch.speed, batch.history, counts = room
        samples = tokens = 0
        if not last:
            self._host.copy(counts)
            self._host.mark()
            samples, tokens = self._host.wait()
            check_counts(samples)
        batch.hidden, batch.cu_seqlens = batch.hidden[:tokens], batch.cu_seqlens[: samples + 1]
        self._samples = samples
        return samples, tokens

    def speed(self) -> Tensor:
        """Return the Speeds of the samples at the start, on the host; known behind the first head."""
        assert self._speed is not None
        return self._speed.wait()[0]

    def finish(self) -> None:
        """Cut the tensors for samples, too; the run is over."""
        self._batch.cut(self._samples, self._batch.hidden.shape[0])
        self._pool.give_back(self._host)

    def _next_room(self) -> tuple[Tensor, ...]:
        """Return memory that nothing of the batch lies in: two of a kind take turns."""
        if len(self._rooms) < 2:
            like = self._rooms[0][0] if self._rooms else self._batch.hidden
            self._rooms.append(empty_survivors(like, self._decided[1].shape[0]))
        else:
            self._rooms.reverse()
        return self._rooms[-1]

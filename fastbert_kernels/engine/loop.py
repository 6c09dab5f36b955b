"""The loop over encoder layers, from which samples leave.

Survivors always move together; the loop never masks those who left and runs on at the old size. By count, for
H = 768 in bfloat16 on an H200: moving a token reads and writes 2 H elements, 3 KB or 0.7 ns at 4.3 TB/s, and a token
less saves 24 H^2 operations in each layer to come, 24 ns at 600 TFLOP/s. So to leave everybody in place is cheaper only
where fewer than 3 % of the tokens would go, divided by the number of layers to come; and what it saves there, at most
6 us of a layer of 400 us (16,384 tokens), is less than it takes: the answers have to be written by the same launch
anyway, two more have to take Speed and place in the results from those who stay behind finished, and the host would
have to know the number who leave before that launch, which keeps the device idle for a round trip. A CPU, in float32,
moves a token for less than 1 % of what a layer takes for it. Small batches, which launches dominate, are another
matter: see `engine.graphs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels import backends, ops
from fastbert_kernels.criteria import WITH_HISTORY
from fastbert_kernels.engine.cuda_ends import CudaEnds, CudaHeads
from fastbert_kernels.engine.host_copies import HostCopy, HostCountsPool
from fastbert_kernels.engine.layer import Layer
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.rule import Rule, asked_layers
from fastbert_kernels.engine.spans import LayeredEncoder, PackedState
from fastbert_kernels.engine.weights import ExitHead, PooledHeadWeights


@dataclass(frozen=True)
class LayerLoop(LayeredEncoder):
    """Layers and exit heads one after another, for every device.

    On a GPU the host reads once behind each exit head that is asked, two numbers in pinned memory, and waits for
    nothing else.

    Attributes:
        layers: L.
        heads: L, None behind a layer without exit head; the last layer has one.
        backend: of the ops, "auto" or a name of `fastbert_kernels.backends.BACKENDS`.
    """

    layers: Sequence[Layer]
    heads: Sequence[ExitHead | None]
    backend: str
    _cuda_heads: CudaHeads = field(default_factory=CudaHeads, repr=False, compare=False)
    _host_counts: HostCountsPool = field(default_factory=HostCountsPool, repr=False, compare=False)

    def with_layers(self, layers: Sequence[Layer]) -> LayerLoop:
        """Return a loop of other layers with the same heads, which shares what this one keeps of them."""
        return replace(self, layers=layers)

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].dtype

    def _run_span(self, state: PackedState, until: int) -> Results:
        return self.run_some(state, until)[0]

    def run_some(
        self, state: PackedState, until: int, enough: Callable[[int, int], bool] = lambda tokens, samples: False
    ) -> tuple[Results, int]:
        """Run a span as `_run_span` does, or its first layers.

        Args:
            state: as of `_run_span`.
            until: as of `_run_span`.
            enough: is asked with the tokens and samples that are left, wherever they are known to have become fewer;
                True ends the span.

        Returns:
            The results, and how many layers the samples that are left have behind them.
        """
        batch, rule, survivors = state.batch, state.rule, len(state)
        results = Results.empty(batch.hidden, survivors, self.num_labels)
        asked, limits, speed = asked_layers(rule, self.heads), rule.limits(self.depth), batch.speed
        # On a GPU to ask would be to wait, so there the answer comes with the first survivor count.
        bound = None if speed.is_cuda else bound_to_stay(speed, rule)
        ends = self._cuda_ends(state, results)
        for number in range(state.layer + 1, until + 1):
            head, last = self.heads[number - 1], number == self.depth
            batch.hidden = self.layers[number - 1](batch.hidden, batch.cu_seqlens, batch.max_seqlen)
            if head is None or number not in asked or (not last and survivors == bound):
                continue
            limit = limits[number - 1]
            layer_speed = None if last or limit == math.inf else limit
            if ends is not None:
                survivors, tokens = ends.let_out(number, last, layer_speed)
                if bound is None:
                    bound = bound_to_stay(ends.speed(), rule)
            else:
                counts = let_out(head, batch, results, number, last, rule, layer_speed, self.backend)
                if last:
                    break
                if bound is None:
                    counts, speed = _read(counts, speed)
                    bound = bound_to_stay(speed, rule)
                else:
                    (counts,) = _read(counts)
                survivors, tokens = counts.tolist()
                batch.cut(survivors, tokens)
            if survivors == 0:
                break
            if number < until and enough(tokens, survivors):
                until = number
                break
        if ends is not None:
            ends.finish()
        return results, until

    def _cuda_ends(self, state: PackedState, results: Results) -> CudaEnds | None:
        """Return the layer ends of a run where they are native calls; None where they are `ops`.

        A compiler is to see the ops, and so is whoever has tensors of a kind of its own.
        """
        hidden = state.batch.hidden
        if torch.compiler.is_compiling() or type(hidden) is not Tensor:
            return None
        if backends.resolve(self.backend, hidden.device) != "cuda":
            return None
        asked = asked_layers(state.rule, self.heads)
        heads = {number: self._cuda_heads.of(head) for number in asked if (head := self.heads[number - 1]) is not None}
        if any(native is None for native in heads.values()):
            return None
        return CudaEnds(heads, state, results, self._host_counts)


def let_out(
    head: ExitHead,
    batch: PackedBatch,
    results: Results,
    layer: int,
    last: bool,
    rule: Rule,
    layer_speed: float | Tensor | None,
    backend: str,
) -> Tensor:
    """Evaluate the exit head behind `layer`, write the results of those who leave and move the others together.

    Device work only: the tensors of `batch` are replaced by compacted ones of the same capacity, see `ops.compact`.

    Args:
        layer: number of layers executed, 1..L.
        last: everybody leaves, whatever their uncertainty.
        rule: its criterion and parameter.
        layer_speed: no sample's Speed counts as more here; a number, or float32 [] on the device. None: no limit.

    Returns:
        counts [2] int32, on the device: survivors and their tokens.
    """
    # The batch keeps the samples' own Speed, for the heads to come.
    speed = batch.speed if layer_speed is None else batch.speed.clamp(max=layer_speed)
    logits, uncertainty, history, keep = _ask(head, batch, speed, rule, backend)
    if last:
        keep = torch.zeros_like(keep)
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
    return counts


def _ask(
    head: ExitHead, batch: PackedBatch, speed: Tensor, rule: Rule, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    options: dict[str, Any] = {
        "history": batch.history,
        "criterion": rule.criterion.value,
        "parameter": rule.parameter,
        "backend": backend,
    }
    inputs = (batch.hidden, batch.cu_seqlens, speed)
    if isinstance(head, PooledHeadWeights):
        return ops.pooled_exit_head(
            *inputs,
            head.weights,
            head.biases,
            pooling=head.pooling,
            activation=head.activation,
            **options,
        )
    return ops.attentive_head(
        *inputs,
        head.tensors,
        narrow_activation=head.narrow_activation,
        mlp_activation=head.mlp_activation,
        **options,
    )


def bound_to_stay(speed: Tensor, rule: Rule) -> int:
    """Return how many samples no exit head lets out; `speed` [B] is on the host.

    An uncertainty is never negative, so by none of the criteria that compare it is it below a Speed of 0, and nothing
    is below NaN; a layer's Speed only lowers a sample's. These samples are among the survivors of every layer: where
    only as many are left, it is they, and no head need be asked. Of criteria with a history that holds for nobody:
    PATIENCE looks at no Speed, and what STABILITY finds at a head depends on the one before having been asked.
    """
    return 0 if rule.criterion in WITH_HISTORY else int((~(speed > 0)).sum())


@torch.compiler.disable  # the one place of a layer where a compiled graph has to end
def _read(*tensors: Tensor) -> list[Tensor]:
    return HostCopy(*tensors).wait()

"""Small batches on a GPU: CUDA graphs instead of launches.

A layer launches about 15 kernels and a launch from PyTorch takes about 5 us, so up to a few thousand tokens the device
waits for the host (24 ns a token and layer, by count, for H = 768 in bfloat16 on an H200). A graph starts them all at
once, but has fixed addresses and sizes. Hence:

- A *bucket* is a capacity: rows, samples, longest sample. A batch is copied into the smallest that holds it.
- A *stage* is one graph of one bucket: layers up to the next exit head, the head and compaction; or all layers to the
  end, where nobody can leave before. A stage reads a `PackedBatch` at a fixed place and leaves the survivors in
  another, which is where the bucket's next stage reads. All sizes stay those of the bucket: within it those who left
  are masked, not moved out.
- Behind the real samples of a bucket come *dummies*, which own all rows that belong to nobody: whatever lies there is
  computed and looked at by no one. They have Speed 0, so they never leave before the last layer, compaction keeps them
  behind the others, and since they are known the survivors are: those who left a stage, `slots - counts[0]`, were real.
- Row 0 of the results is for the dummies, which `compact` numbers 0 too, and real samples count from 1.
- For up to 8 short samples the stages of a bucket are *chained* to one graph, in which the device itself decides after
  each whether the next one runs (conditional nodes, csrc/cuda/depth_graph.cu): one launch, and no host in between.
  Where that is not to be had, the host starts stage after stage.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from fastbert_kernels.engine.buckets import (
    COUNTED,
    MAX_SAMPLES,
    WHOLE_DEPTH_SAMPLES,
    WHOLE_DEPTH_TOKENS,
    Bucket,
    MoveCost,
)
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.loop import HostCopy, LayerLoop, bound_to_stay, let_out
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.recorders import CudaRecorder, Recorder, Span, Stage
from fastbert_kernels.engine.weights import ExitHead


class _NotRecorded(Exception):
    """The recorder could not; the message says why."""


class GraphedLoop:
    """`LayerLoop` with its small batches in CUDA graphs, recorded when a bucket is first used.

    Too large batches, batches for which there is no bucket any more, calls during a call of another thread, and
    everything after a capture that failed, go through the plain loop. The graphs read the weights where they are, so
    writes in place are seen. Memory: a bucket holds T x H elements per layer, 40 MB at most for BERT-base in 16 bits.

    Attributes:
        layers, heads, backend, dtype: as of `LayerLoop`.
    """

    def __init__(
        self,
        layers: list[TorchLayer],
        heads: Sequence[ExitHead | None],
        backend: str,
        *,
        recorder: Recorder | None = None,
        move: MoveCost = COUNTED,
        late: int = 1,
        whole_depth_samples: int = WHOLE_DEPTH_SAMPLES,
        max_buckets: int = 24,
    ) -> None:
        """
        Args:
            recorder: None takes CUDA graphs, and where the weights are not on a GPU warns and runs the plain loop.
            late: how many stages are queued before the survivor count of the first of them is waited for. With 0 the
                device waits for the host behind every layer, with 1 it computes a layer too many at the end.
            whole_depth_samples: batches of up to so many short samples go through one graph of all layers.
            max_buckets: each has up to 2 L graphs.
        """
        self.layers, self.heads, self.backend = layers, heads, backend
        self._plain = LayerLoop(layers, heads, backend)
        self._exits = [number for number, head in enumerate(heads, start=1) if head is not None]
        self._move, self._late, self._max_buckets = move, late, max_buckets
        weight = layers[0].weights.qkv_weight
        self._device, self._hidden_size = weight.device, weight.shape[1]
        self._whole_depth_samples = whole_depth_samples
        self._chains: dict[Bucket, Callable[[], None]] = {}
        self._limits: dict[Bucket, tuple[Tensor, Tensor]] = {}  # of every bucket in use
        self._stages: dict[tuple[Bucket, int, int], Stage] = {}
        self._results: Results | None = None
        self._lock = threading.Lock()
        self._recorder = recorder
        if recorder is None and self._device.type == "cuda":
            self._recorder = CudaRecorder(self._device)
        elif recorder is None:
            self._give_up(f"the weights are on {self._device}, not on a GPU")

    @property
    def dtype(self) -> torch.dtype:
        return self._plain.dtype

    def prepare(self, shapes: Iterable[tuple[int, int, int]]) -> None:
        """Records ahead what batches of these (tokens, samples, longest sample) need: the largest first, in whose
        memory the others find room."""
        buckets = {bucket for shape in shapes if (bucket := Bucket.smallest(*shape))}
        with self._lock:
            if self._recorder is None:
                return
            try:
                for bucket in sorted(buckets, key=lambda bucket: (bucket.tokens, bucket.slots), reverse=True):
                    if self._admit(bucket):
                        self._all_stages(bucket)
                        self._chain(bucket)
            except _NotRecorded as error:
                self._give_up(str(error))

    @torch.compiler.disable
    def run(self, batch: PackedBatch, *, adaptive: bool) -> Results:
        """See `engine.encoder.Encoder`. The results are the caller's own."""
        wanted = Bucket.smallest(batch.hidden.shape[0], batch.sample_index.shape[0], batch.max_seqlen)
        fits = batch.hidden.device == self._device and batch.hidden.dtype == self.dtype
        if wanted is not None and fits and self._lock.acquire(blocking=False):
            try:
                bucket = self._bucket_for(wanted)
                if self._recorder is not None and bucket is not None:
                    with self._recorder.turn():
                        return self._replay(batch, bucket, adaptive)
            except _NotRecorded as error:
                self._give_up(str(error))  # and once more from the start: `batch` is as it came
            finally:
                self._lock.release()
        return self._plain.run(batch, adaptive=adaptive)

    def _replay(self, batch: PackedBatch, bucket: Bucket, adaptive: bool) -> Results:
        size = survivors = batch.sample_index.shape[0]
        tokens, depth, position = batch.hidden.shape[0], len(self.layers), 0
        bound = None if adaptive else size
        counts: deque[tuple[Bucket, HostCopy]] = deque()
        source = dataclasses.replace(batch, sample_index=batch.sample_index + 1)
        if adaptive and (chain := self._chain(bucket)) is not None:
            _load(self._all_stages(bucket)[0].inputs, source, size, tokens)
            chain()
            return self._answers(size)
        speed = HostCopy(batch.speed) if adaptive else None
        while survivors:
            end = depth if survivors == bound else self._next_exit(position)
            stage = self._stage(bucket, position, end)
            if source is not stage.inputs:
                _load(stage.inputs, source, survivors, tokens)
            stage.replay()
            if end == depth:
                break
            source, position = stage.outputs, end
            counts.append((bucket, HostCopy(stage.counts)))
            if len(counts) <= self._late:
                continue
            # From here on `survivors` and `tokens` are those of an earlier layer: upper bounds.
            of, copy = counts.popleft()
            slots, rows = copy.wait()[0].tolist()
            survivors, tokens = survivors - (of.slots - slots), tokens - (of.tokens - rows)
            if bound is None and speed is not None:
                bound = bound_to_stay(speed.wait()[0])
            bucket = self._shrink(bucket, tokens, survivors, depth - position)
        return self._answers(size)

    def _answers(self, size: int) -> Results:
        assert self._results is not None
        return Results(*(getattr(self._results, name)[1 : size + 1].clone() for name in _RESULTS))

    def _next_exit(self, position: int) -> int:
        """The number of layers up to the first exit head behind `position` of them."""
        return self._exits[bisect.bisect_right(self._exits, position)]

    def _all_stages(self, bucket: Bucket) -> list[Stage]:
        return [self._stage(bucket, first, end) for first, end in itertools.pairwise([0, *self._exits])]

    def _chain(self, bucket: Bucket) -> Callable[[], None] | None:
        """The graph of all layers of `bucket`, made now or before; None where it is not for it or not to be had."""
        if bucket.samples > self._whole_depth_samples or bucket.tokens > WHOLE_DEPTH_TOKENS:
            return None
        if bucket not in self._chains:
            assert self._recorder is not None
            stages = self._all_stages(bucket)
            try:
                self._chains[bucket] = self._recorder.chain(stages)
            except RuntimeError as error:
                self._whole_depth_samples = 0
                warnings.warn(
                    f"no CUDA graph of all layers, the host starts layer after layer: {error}",
                    RuntimeWarning,
                    stacklevel=4,
                )
                return None
        return self._chains[bucket]

    def _admit(self, bucket: Bucket) -> bool:
        """Whether the bucket is in use, now or already."""
        if bucket not in self._limits:
            if len(self._limits) >= self._max_buckets:
                return False
            with torch.inference_mode(False):
                self._limits[bucket] = bucket.limits(self._device)
        return True

    def _bucket_for(self, wanted: Bucket) -> Bucket | None:
        if self._admit(wanted):
            return wanted
        return min((b for b in self._limits if b.holds(wanted)), key=lambda b: (b.tokens, b.slots), default=None)

    def _shrink(self, bucket: Bucket, tokens: int, samples: int, layers: int) -> Bucket:
        """The bucket for the `layers` layers to come. The longest sample may be among those who stay."""
        smaller = Bucket.smallest(tokens, samples, bucket.max_seqlen)
        if smaller is None or not self._move.pays(bucket.tokens - smaller.tokens, layers, self._hidden_size):
            return bucket
        return smaller if self._admit(smaller) else bucket

    def _stage(self, bucket: Bucket, first: int, end: int) -> Stage:
        """Layers `first` to `end` - 1 in `bucket`, recorded now or before."""
        assert self._recorder is not None
        if (bucket, first, end) not in self._stages:
            # Memory that lives on must be of the ordinary kind, which may be written in and outside inference mode.
            with torch.inference_mode(False), torch.no_grad():
                inputs = self._stage_before(bucket, first).outputs if first else self._idle(bucket, first)
                try:
                    stage = self._recorder.record(self._span(bucket, first, end), inputs, self._idle(bucket, first))
                except RuntimeError as error:
                    raise _NotRecorded(f"layers {first + 1} to {end} could not be recorded ({error})") from error
            self._stages[bucket, first, end] = stage
        return self._stages[bucket, first, end]

    def _stage_before(self, bucket: Bucket, position: int) -> Stage:
        """The stage that ends where `position` layers are done."""
        place = self._exits.index(position)
        return self._stage(bucket, self._exits[place - 1] if place else 0, position)

    def _span(self, bucket: Bucket, first: int, end: int) -> Span:
        lower, upper = self._limits[bucket]
        head = self.heads[end - 1]
        assert head is not None
        if self._results is None:
            self._results = Results.empty(self.layers[0].weights.qkv_weight, MAX_SAMPLES + 1, head.num_labels)
        results = self._results

        def span(inputs: PackedBatch) -> tuple[PackedBatch, Tensor]:
            batch = dataclasses.replace(inputs, cu_seqlens=torch.clamp(inputs.cu_seqlens, lower, upper))
            for layer in self.layers[first:end]:
                batch.hidden = layer(batch.hidden, batch.cu_seqlens, batch.max_seqlen)
            last = end == len(self.layers)
            counts = let_out(head, batch, results, end, last, self.backend)
            return batch, counts

        return span

    def _idle(self, bucket: Bucket, first: int) -> PackedBatch:
        """Dummies only, as they stand in front of layer `first`."""
        like, slots = self.layers[0].weights.qkv_weight, bucket.slots
        return PackedBatch(
            hidden=like.new_zeros(bucket.tokens, self._hidden_size, dtype=self.dtype),
            cu_seqlens=like.new_zeros(slots + 1, dtype=torch.int32),
            sample_index=like.new_zeros(slots, dtype=torch.int32),
            speed=like.new_zeros(slots, dtype=torch.float32),
            max_seqlen=bucket.max_seqlen,
            history=like.new_zeros(slots, 2, dtype=torch.int32) if first else None,
        )

    def _give_up(self, reason: str) -> None:
        self._recorder = None
        warnings.warn(f"no CUDA graphs, every kernel is launched by itself: {reason}", RuntimeWarning, stacklevel=3)


_RESULTS = [field.name for field in dataclasses.fields(Results)]


def _load(target: PackedBatch, source: PackedBatch, samples: int, tokens: int) -> None:
    """The first samples and rows of `source`, with empty dummies behind them; other rows stay as they are."""
    target.hidden[:tokens].copy_(source.hidden[:tokens])
    bounds = source.cu_seqlens[: samples + 1]
    repeated = bounds[-1:].expand(target.cu_seqlens.shape[0] - samples - 1)
    torch.cat((bounds, repeated), out=target.cu_seqlens)
    for new, old in ((target.sample_index, source.sample_index), (target.speed, source.speed)):
        new[:samples].copy_(old[:samples])
        new[samples:].zero_()
    if target.history is not None and source.history is not None:
        target.history[:samples].copy_(source.history[:samples])

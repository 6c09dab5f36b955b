"""Small batches on a GPU: CUDA graphs instead of launches.

A layer launches about 15 kernels and a launch from PyTorch takes about 5 us, so up to a few thousand tokens the device
waits for the host (24 ns a token and layer, by count, for H = 768 in bfloat16 on an H200). A graph starts them all at
once, but has fixed addresses and sizes. Hence:

- A *bucket* is a capacity: rows, samples, longest sample. A batch is copied into the smallest that holds it.
- A *stage* is one graph of one bucket: layers up to the next exit head, the head and compaction; or layers to the end
  of the span, where nobody can leave before. A stage reads a `PackedBatch` at a fixed place and leaves the survivors in
  another, which is where the bucket's next stage reads. All sizes stay those of the bucket: within it those who left
  are masked, not moved out. Between spans the survivors are in memory of their own.
- Behind the real samples of a bucket come *dummies*, which own all rows that belong to nobody: whatever lies there is
  computed and looked at by no one. They have Speed 0, so they never leave before the last layer, compaction keeps them
  behind the others, and since they are known the survivors are: those who left a stage, `slots - counts[0]`, were real.
- Row 0 of the results is for the dummies, which `compact` numbers 0 too, and real samples count from 1.
- Of the rule, its *plan* is fixed: the criterion and which heads are asked. Each plan has its own stages. The Speed of
  a layer is read from a small tensor, which is filled before a replay, so that another one needs no new recording; the
  smaller of it and a dummy's is still 0. Patience looks at no Speed, so dummies would leave: it has no plan, and goes
  through the plain loop.
- For up to 8 short samples the stages of a bucket are *chained* to one graph, in which the device itself decides after
  each whether the next one runs (conditional nodes, csrc/cuda/depth_graph.cu): one launch, and no host in between.
  Where that is not available, the host starts stage after stage.
"""

from __future__ import annotations

import dataclasses
import threading
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

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
from fastbert_kernels.engine.host_copies import HostCopy, HostCounts, HostCountsPool
from fastbert_kernels.engine.layer import NoLayer, TorchLayer
from fastbert_kernels.engine.loop import LayerLoop, bound_to_stay, let_out
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.plans import Place, Plan, StageLayers
from fastbert_kernels.engine.recorders import CudaRecorder, Recorder, RunLayers, Stage
from fastbert_kernels.engine.rule import ENTROPY_RULE, Rule
from fastbert_kernels.engine.spans import LayeredEncoder, PackedState
from fastbert_kernels.engine.weights import ExitHead


class _NotRecorded(Exception):
    """The recorder could not; the message says why."""


class GraphedLoop(LayeredEncoder):
    """`LayerLoop` with its small batches in CUDA graphs, recorded when a bucket is first used.

    A larger batch goes through the plain loop until so many samples have left that the others fit a bucket. Rules
    without a plan, batches for which there is no bucket any more, calls during a call of another thread, and everything
    after a capture that failed, go through the plain loop to the end. The graphs read the weights where they are, so
    writes in place are seen. Memory: a bucket holds T x H elements per layer, 40 MB at most for BERT-base in 16 bits.

    Attributes:
        layers, heads, backend, dtype: as of `LayerLoop`.
    """

    def __init__(
        self,
        layers: Sequence[TorchLayer | NoLayer],
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
            max_buckets: counted once for each plan; each has up to 2 L graphs.
        """
        self.layers, self.heads, self.backend = layers, heads, backend
        self._plain = LayerLoop(layers, heads, backend)
        self._move, self._late, self._max_buckets = move, late, max_buckets
        first = layers[0]
        assert isinstance(first, TorchLayer)
        self._weight = first.weights.qkv_weight
        self._device, self._hidden_size = self._weight.device, self._weight.shape[1]
        self._whole_depth_samples = whole_depth_samples
        self._places: dict[tuple[Bucket, Plan], Place] = {}
        with torch.inference_mode(False):
            self._layer_speeds = torch.zeros(len(layers), dtype=torch.float32, device=self._device)
        self._filled: tuple[float, ...] | None = None  # what is in there, or on its way
        self._results: Results | None = None
        self._recording_is_over = False
        self._lock = threading.Lock()
        self._host_counts = HostCountsPool()
        self._recorder = recorder
        if recorder is None and self._device.type == "cuda":
            self._recorder = CudaRecorder(self._device)
        elif recorder is None:
            self._give_up(f"the weights are on {self._device}, not on a GPU")

    @property
    def dtype(self) -> torch.dtype:
        return self._plain.dtype

    def warm_up(self, shapes: Collection[tuple[int, int, int]]) -> None:
        """Record ahead what batches of these (tokens, samples, longest sample) need by the paper's rule and at full
        depth, and nothing in any call to come: what has no graph by then is launched."""
        self.prepare(shapes)
        with self._lock:
            if self._recorder is not None:
                try:
                    with self._recorder.turn():
                        for place in self._places.values():
                            self._all_stages(place)
                            self._stage(place, StageLayers(0, self.depth, asks=True))
                except _NotRecorded as error:
                    self._give_up(str(error))
            self._recording_is_over = True

    def prepare(self, shapes: Iterable[tuple[int, int, int]], rule: Rule = ENTROPY_RULE) -> None:
        """Records ahead what batches of these (tokens, samples, longest sample) need by such a rule, whatever Speeds it
        has: the largest first, in whose memory the others find room."""
        plan = Plan.of(rule, self.heads)
        if plan is None:
            return
        buckets = {bucket for shape in shapes if (bucket := Bucket.smallest(*shape))}
        with self._lock:
            if self._recorder is None:
                return
            try:
                with self._recorder.turn():  # what is run once beforehand writes to memory that runs share
                    self._record(buckets, plan)
            except _NotRecorded as error:
                self._give_up(str(error))

    def _record(self, buckets: Iterable[Bucket], plan: Plan) -> None:
        for bucket in sorted(buckets, key=lambda bucket: (bucket.tokens, bucket.slots), reverse=True):
            if place := self._place(bucket, plan):
                self._all_stages(place)
                self._chain(place)

    @torch.compiler.disable
    def _run_span(self, state: PackedState, until: int) -> Results:
        """See `Encoder`. The results and the batch of the samples that are left are the caller's own."""
        batch = state.batch
        plan = Plan.of(state.rule, self.heads)
        fits = batch.hidden.device == self._device and batch.hidden.dtype == self.dtype
        whole = state.layer == 0 and until == self.depth
        if plan is None or not fits or self._recorder is None or (self._recording_is_over and not whole):
            return self._plain._run_span(state, until)
        if Bucket.smallest(state.tokens, len(state), batch.max_seqlen) is not None:
            return self._run_small(state, until, plan)

        def small(tokens: int, samples: int) -> bool:
            return Bucket.smallest(tokens, samples, batch.max_seqlen) is not None

        results, layer = self._plain.run_some(state, until, small)
        if layer == until or len(batch) == 0:
            return results
        # The rest of the span is a run of its own, of the samples that are left.
        rows = batch.sample_index.long()
        batch.renumber()
        rest = self._run_small(dataclasses.replace(state, layer=layer), until, plan)
        for name in _RESULTS:
            getattr(results, name).index_copy_(0, rows, getattr(rest, name))
        batch.sample_index = rows[batch.sample_index.long()].int()
        return results

    def _run_small(self, state: PackedState, until: int, plan: Plan) -> Results:
        """Run a span of a batch for which there is a bucket."""
        wanted = Bucket.smallest(state.tokens, len(state), state.batch.max_seqlen)
        if wanted is not None and self._lock.acquire(blocking=False):
            try:
                place = self._place_for(wanted, plan)
                if self._recorder is not None and place is not None:
                    with self._recorder.turn():
                        return self._replay(state, until, place)
            except _NotRecorded as error:
                self._give_up(str(error))  # and once more from the start: `state` is as it came
            finally:
                self._lock.release()
        return self._plain._run_span(state, until)

    def _replay(self, state: PackedState, until: int, place: Place) -> Results:
        batch, rule = state.batch, state.rule
        size = survivors = len(batch)
        tokens, depth, position = state.tokens, self.depth, state.layer
        bound = None if rule.early_exits else size
        counts: deque[tuple[Bucket, HostCounts]] = deque()
        source = dataclasses.replace(batch, sample_index=batch.sample_index + 1)
        if rule.layer_speeds is not None:
            self._fill_layer_speeds(rule.limits(depth))
        whole = position == 0 and until == depth
        if whole and rule.early_exits and (chain := self._chain(place)) is not None:
            _load(place.stages[place.plan.stages()[0]].inputs, source, size, tokens)
            chain()
            return self._answers(size)
        speed = HostCopy(batch.speed) if rule.early_exits else None

        def count() -> None:
            nonlocal survivors, tokens
            bucket, host = counts.popleft()
            slots, rows = host.wait()
            self._host_counts.give_back(host)
            survivors, tokens = survivors - (bucket.slots - slots), tokens - (bucket.tokens - rows)

        while survivors:
            layers = place.plan.next_layers(position, until, nobody_leaves=survivors == bound)
            if self._recording_is_over and rule.early_exits and layers not in place.stages:
                # Those who are left are let out by no head, if it is asked.
                layers = place.plan.next_layers(position, until, nobody_leaves=False)
            stage = self._stage(place, layers)
            if source is not stage.inputs:
                _load(stage.inputs, source, survivors, tokens)
            stage.replay()
            source, position = stage.outputs, layers.end
            if position == depth:
                for _, host in counts:  # what nobody waits for; a later copy comes behind it
                    self._host_counts.give_back(host)
                return self._answers(size)
            if stage.counts is not None:
                host = self._host_counts.take(self._device)
                host.copy(stage.counts)
                host.mark()
                counts.append((place.bucket, host))
            if position == until:
                break
            if len(counts) <= self._late:
                continue
            # From here on `survivors` and `tokens` are those of an earlier layer: upper bounds.
            count()
            if bound is None and speed is not None:
                bound = bound_to_stay(speed.wait()[0], rule)
            place = self._shrink(place, tokens, survivors, until - position)
        while counts and survivors:
            count()
        if survivors:
            _keep(batch, source, survivors, tokens)
        else:
            batch.cut(0, 0)
        return self._answers(size)

    def _fill_layer_speeds(self, speeds: tuple[float, ...]) -> None:
        """For the replays to come; those before are done with what was there, see `Recorder.turn`."""
        if speeds != self._filled:
            source = torch.tensor(speeds, dtype=torch.float32, device="cpu", pin_memory=self._layer_speeds.is_cuda)
            self._layer_speeds.copy_(source, non_blocking=True)
            self._filled = speeds

    def _answers(self, size: int) -> Results:
        assert self._results is not None
        return Results(*(getattr(self._results, name)[1 : size + 1].clone() for name in _RESULTS))

    def _all_stages(self, place: Place) -> list[Stage]:
        return [self._stage(place, layers) for layers in place.plan.stages()]

    def _chain(self, place: Place) -> Callable[[], None] | None:
        """The graph of all layers at `place`, made now or before; None where it is not for it or not available."""
        if place.bucket.samples > self._whole_depth_samples or place.bucket.tokens > WHOLE_DEPTH_TOKENS:
            return None
        if place.chain is None:
            assert self._recorder is not None
            stages = self._all_stages(place)
            try:
                place.chain = self._recorder.chain(stages)
            except RuntimeError as error:
                self._whole_depth_samples = 0
                warnings.warn(
                    f"no CUDA graph of all layers, the host starts layer after layer: {error}",
                    RuntimeWarning,
                    stacklevel=5,
                )
        return place.chain

    def _place(self, bucket: Bucket, plan: Plan) -> Place | None:
        """In use, now or already; None where there are no more to be had."""
        if (bucket, plan) not in self._places:
            if self._recording_is_over or len(self._places) >= self._max_buckets:
                return None
            with torch.inference_mode(False):
                self._places[bucket, plan] = Place(bucket, plan, bucket.limits(self._device))
        return self._places[bucket, plan]

    def _place_for(self, wanted: Bucket, plan: Plan) -> Place | None:
        if place := self._place(wanted, plan):
            return place
        larger = (place for place in self._places.values() if place.plan == plan and place.bucket.holds(wanted))
        return min(larger, key=lambda place: (place.bucket.tokens, place.bucket.slots), default=None)

    def _shrink(self, place: Place, tokens: int, samples: int, layers: int) -> Place:
        """For the `layers` layers to come. The longest sample may be among those who stay."""
        smaller = Bucket.smallest(tokens, samples, place.bucket.max_seqlen)
        if smaller is None or not self._move.pays(place.bucket.tokens - smaller.tokens, layers, self._hidden_size):
            return place
        return self._place(smaller, place.plan) or place

    def _stage(self, place: Place, layers: StageLayers) -> Stage:
        """Return the stage of these layers at `place`, recorded now or before."""
        assert self._recorder is not None
        if layers not in place.stages:
            # Memory that lives on must be of the ordinary kind, which may be written in and outside inference mode.
            with torch.inference_mode(False), torch.no_grad():
                before = place.plan.layers_before(layers.first)
                idle = self._idle(place.bucket, layers.first)
                inputs = (
                    self._idle(place.bucket, layers.first) if before is None else self._stage(place, before).outputs
                )
                try:
                    stage = self._recorder.record(self._runner(place, layers), inputs, idle)
                except RuntimeError as error:
                    name = f"layers {layers.first + 1} to {layers.end}"
                    raise _NotRecorded(f"{name} could not be recorded ({error})") from error
            place.stages[layers] = stage
        return place.stages[layers]

    def _runner(self, place: Place, layers: StageLayers) -> RunLayers:
        (lower, upper), plan = place.limits, place.plan
        last = layers.end == self.depth
        head = self.heads[layers.end - 1] if layers.asks else None
        layer_speed = self._layer_speeds[layers.end - 1] if plan.limited and not last else None
        if self._results is None:
            self._results = Results.empty(self._weight, MAX_SAMPLES + 1, self.num_labels)
        results = self._results

        def run(inputs: PackedBatch) -> tuple[PackedBatch, Tensor | None]:
            batch = dataclasses.replace(inputs, cu_seqlens=torch.clamp(inputs.cu_seqlens, lower, upper))
            for layer in self.layers[layers.first : layers.end]:
                batch.hidden = layer(batch.hidden, batch.cu_seqlens, batch.max_seqlen)
            if head is None:
                return batch, None
            return batch, let_out(head, batch, results, layers.end, last, plan.decision, layer_speed, self.backend)

        return run

    def _idle(self, bucket: Bucket, first: int) -> PackedBatch:
        """Dummies only, as they stand in front of layer `first`."""
        like, slots = self._weight, bucket.slots
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
        warnings.warn(f"no CUDA graphs, every kernel is launched by itself: {reason}", RuntimeWarning, stacklevel=4)


_RESULTS = [field.name for field in dataclasses.fields(Results)]


def _load(target: PackedBatch, source: PackedBatch, samples: int, tokens: int) -> None:
    """Copy the first samples and rows of `source`, with empty dummies behind them; other rows stay as they are."""
    target.hidden[:tokens].copy_(source.hidden[:tokens])
    bounds = source.cu_seqlens[: samples + 1]
    repeated = bounds[-1:].expand(target.cu_seqlens.shape[0] - samples - 1)
    torch.cat((bounds, repeated), out=target.cu_seqlens)
    for new, old in ((target.sample_index, source.sample_index), (target.speed, source.speed)):
        new[:samples].copy_(old[:samples])
        new[samples:].zero_()
    if target.history is None:
        return
    if source.history is None:
        target.history.zero_()
    else:
        target.history[:samples].copy_(source.history[:samples])


def _keep(batch: PackedBatch, source: PackedBatch, samples: int, tokens: int) -> None:
    """Put copies of the first samples and rows of `source`, which the next replay overwrites, in the place of those of
    `batch`."""
    left = dataclasses.replace(source)
    left.cut(samples, tokens)
    batch.hidden, batch.cu_seqlens, batch.speed = left.hidden.clone(), left.cu_seqlens.clone(), left.speed.clone()
    batch.sample_index = left.sample_index - 1  # that of dummies is 0
    batch.history = None if left.history is None else left.history.clone()

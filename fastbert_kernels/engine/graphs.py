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
- No call records anything unless that was asked for: what has no graph goes through the plain loop. `warm_up` records
  ahead of traffic, in `engine.recordings`.
- For up to 8 short samples the stages of a bucket are *chained* to one graph, in which the device itself decides after
  each whether the next one runs (conditional nodes, csrc/cuda/depth_graph.cu): one launch, and no host in between.
  Where that is not available, the host starts stage after stage. In front of them may stand an *entry*, which packs and
  embeds padded texts (`engine.entrance`): then one launch is all that happens between a call's copies.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from fastbert_kernels.engine.answers import Answered
from fastbert_kernels.engine.buckets import COUNTED, MAX_SAMPLES, WHOLE_DEPTH_SAMPLES, Bucket, MoveCost
from fastbert_kernels.engine.entrance import NUMBERS, Entrance, PaddedCall
from fastbert_kernels.engine.host_copies import HostCopy, HostCounts, HostCountsPool, HostLink
from fastbert_kernels.engine.layer import NoLayer, TorchLayer
from fastbert_kernels.engine.loop import LayerLoop, bound_to_stay
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.plans import Place, Plan
from fastbert_kernels.engine.recorders import Recorder
from fastbert_kernels.engine.recordings import NotRecorded, Recordings
from fastbert_kernels.engine.rule import Rule, default_criterion, full_depth
from fastbert_kernels.engine.spans import LayeredEncoder, PackedState
from fastbert_kernels.engine.weights import ExitHead


class GraphedLoop(LayeredEncoder):
    """`LayerLoop` with its small batches in CUDA graphs.

    A larger batch goes through the plain loop until so many samples have left that the others fit a bucket. Rules
    without a plan, batches for which there is no graph, calls during a call of another thread, and everything after a
    capture that failed, go through the plain loop to the end. The graphs read the weights where they are, so writes in
    place are seen. Memory: a bucket holds T x H elements per layer, 40 MB at most for BERT-base in 16 bits.

    Attributes:
        layers: as of `LayerLoop`.
        heads: as of `LayerLoop`.
        backend: as of `LayerLoop`.
        dtype: as of `LayerLoop`.
        recordings: the graphs.
    """

    def __init__(
        self,
        layers: Sequence[TorchLayer | NoLayer],
        heads: Sequence[ExitHead | None],
        backend: str,
        *,
        recorder: Recorder | None = None,
        on_demand: bool = False,
        move: MoveCost = COUNTED,
        late: int = 1,
        whole_depth_samples: int = WHOLE_DEPTH_SAMPLES,
        max_buckets: int = 24,
    ) -> None:
        """
        Args:
            recorder: None takes CUDA graphs, and where the weights are not on a GPU warns and runs the plain loop.
            on_demand: whether a call records the graphs that it lacks.
            late: how many stages are queued before the survivor count of the first of them is waited for. With 0 the
                device waits for the host behind every layer, with 1 it computes a layer too many at the end.
            whole_depth_samples: batches of up to so many short samples go through one graph of all layers.
            max_buckets: counted once for each plan; each has up to 2 L graphs.
        """
        self.layers, self.heads, self.backend = layers, heads, backend
        self._plain = LayerLoop(layers, heads, backend)
        self._move, self._late = move, late
        self._filled: tuple[float, ...] | None = None  # what the Speeds of layers are, or will be
        self._host_counts = HostCountsPool()
        self._links: list[HostLink] = []
        self.recordings = Recordings(
            layers,
            heads,
            backend,
            recorder,
            on_demand=on_demand,
            whole_depth_samples=whole_depth_samples,
            max_buckets=max_buckets,
        )

    @property
    def dtype(self) -> torch.dtype:
        return self._plain.dtype

    def warm_up(
        self,
        shapes: Collection[tuple[int, int, int]],
        rules: Sequence[Rule] = (),
        entrance: Entrance | None = None,
    ) -> None:
        for rule in rules or [Rule(default_criterion(self.num_labels))]:
            # Of a rule that no graph serves, those of full depth are left.
            plan = Plan.of(rule, self.heads) or Plan.of(full_depth(self.num_labels), self.heads)
            assert plan is not None
            self.recordings.record_ahead(shapes, plan, entrance, full_depth=rule.layer_speeds is None)

    def record_on_demand(self) -> None:
        self.recordings.on_demand = True

    def takes_padded(self, samples: int, length: int) -> bool:
        bucket, recordings = Bucket.smallest(samples * length, samples, length), self.recordings
        return bucket is not None and recordings.is_whole(bucket) and recordings.has_entries

    @torch.compiler.disable
    def answer_padded(self, call: PaddedCall, entrance: Entrance, rule: Rule) -> Answered | None:
        """See `Encoder`. Up to five copies and launches, six with Speeds that lie on the device, and one wait."""
        recordings, plan, wanted = self.recordings, Plan.of(rule, self.heads), call.bucket
        if plan is None or wanted is None or call.ids.device != recordings.device:
            return None
        if not recordings.lock.acquire(blocking=False):
            return None
        try:
            place = None if recordings.recorder is None else recordings.place_for(wanted, plan)
            entry = None if place is None else recordings.entry(place, entrance, rule.early_exits)
            if recordings.recorder is None or entry is None:
                return None
            link = self._link()
            on_host = call.speed if not isinstance(call.speed, Tensor) or not call.speed.is_cuda else None
            numbers = [*call.ids.shape, int(call.mask is not None), int(call.types is not None)]
            with recordings.recorder.turn():
                if rule.layer_speeds is not None:
                    self._fill_layer_speeds(rule.limits(self.depth))
                link.send(numbers, on_host, len(call), entry.inputs.control)
                entry.inputs.load(call)
                entry.replays[rule.early_exits]()
                answers = recordings.answers.copy()
                link.read(answers.memory[: answers.read_bytes])
        except NotRecorded as error:
            recordings.give_up(str(error))
            return None
        finally:
            recordings.lock.release()
        read = link.wait()
        uncertainty, fault = answers.uncertainty(read).tolist(), answers.fault_in(read).tolist()
        self._links.append(link)
        return Answered(_of_samples(answers.results, len(call)), uncertainty[1 : len(call) + 1], fault != [0])

    def _link(self) -> HostLink:
        """Return one that no call has at present."""
        try:
            return self._links.pop()
        except IndexError:
            read_bytes = self.recordings.answers.read_bytes
            return HostLink(self.recordings.device, NUMBERS + MAX_SAMPLES, read_bytes)

    @torch.compiler.disable
    def _run_span(self, state: PackedState, until: int) -> Results:
        """See `Encoder`. The results and the batch of the samples that are left are the caller's own."""
        batch, recordings = state.batch, self.recordings
        plan = Plan.of(state.rule, self.heads)
        fits = batch.hidden.device == recordings.device and batch.hidden.dtype == self.dtype
        # Of a span, stages may be missing that nobody could foresee.
        foreseen = recordings.on_demand or (state.layer == 0 and until == self.depth)
        if plan is None or not fits or recordings.recorder is None or not foreseen:
            return self._plain._run_span(state, until)

        def small(tokens: int, samples: int) -> bool:
            return recordings.holds(Bucket.smallest(tokens, samples, batch.max_seqlen), plan)

        if small(state.tokens, len(state)):
            return self._run_small(state, until, plan)
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
        """Run a span of a batch for which there may be a place."""
        recordings = self.recordings
        wanted = Bucket.smallest(state.tokens, len(state), state.batch.max_seqlen)
        if wanted is not None and recordings.lock.acquire(blocking=False):
            try:
                place = None if recordings.recorder is None else recordings.place_for(wanted, plan)
                if recordings.recorder is not None and place is not None:
                    with recordings.recorder.turn():
                        return self._replay(state, until, place)
            except NotRecorded as error:
                recordings.give_up(str(error))  # and once more from the start: `state` is as it came
            finally:
                recordings.lock.release()
        return self._plain._run_span(state, until)

    def _replay(self, state: PackedState, until: int, place: Place) -> Results:
        batch, rule, recordings = state.batch, state.rule, self.recordings
        size = survivors = len(batch)
        tokens, depth, position = state.tokens, self.depth, state.layer
        bound = None if rule.early_exits else size
        counts: deque[tuple[Bucket, HostCounts]] = deque()
        source = dataclasses.replace(batch, sample_index=batch.sample_index + 1)
        if rule.layer_speeds is not None:
            self._fill_layer_speeds(rule.limits(depth))
        whole = position == 0 and until == depth
        if whole and rule.early_exits and (chain := recordings.chain(place)) is not None:
            _load(place.start, source, size, tokens)
            chain()
            return self._own_answers(size)
        speed = HostCopy(batch.speed) if rule.early_exits else None

        def count() -> None:
            nonlocal survivors, tokens
            bucket, host = counts.popleft()
            slots, rows = host.wait()
            self._host_counts.give_back(host)
            survivors, tokens = survivors - (bucket.slots - slots), tokens - (bucket.tokens - rows)

        while survivors:
            layers = place.plan.next_layers(position, until, nobody_leaves=survivors == bound)
            if rule.early_exits and not recordings.has(place, layers):
                # Those who are left are let out by no head, if it is asked.
                layers = place.plan.next_layers(position, until, nobody_leaves=False)
            stage = recordings.stage(place, layers)
            if source is not stage.inputs:
                _load(stage.inputs, source, survivors, tokens)
            stage.replay()
            source, position = stage.outputs, layers.end
            if position == depth:
                for _, host in counts:  # what nobody waits for; a later copy comes behind it
                    self._host_counts.give_back(host)
                return self._own_answers(size)
            if stage.counts is not None:
                host = self._host_counts.take(recordings.device)
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
        return self._own_answers(size)

    def _fill_layer_speeds(self, speeds: tuple[float, ...]) -> None:
        """For the replays to come; those before are done with what was there, see `Recorder.turn`."""
        if speeds != self._filled:
            target = self.recordings.layer_speeds
            source = torch.tensor(speeds, dtype=torch.float32, device="cpu", pin_memory=target.is_cuda)
            target.copy_(source, non_blocking=True)
            self._filled = speeds

    def _own_answers(self, size: int) -> Results:
        return _of_samples(self.recordings.answers.copy().results, size)

    def _shrink(self, place: Place, tokens: int, samples: int, layers: int) -> Place:
        """For the `layers` layers to come. The longest sample may be among those who stay."""
        smaller = Bucket.smallest(tokens, samples, place.bucket.max_seqlen)
        hidden_size = self.recordings.hidden_size
        if smaller is None or not self._move.pays(place.bucket.tokens - smaller.tokens, layers, hidden_size):
            return place
        return self.recordings.place(smaller, place.plan) or place


_RESULTS = [field.name for field in dataclasses.fields(Results)]


def _of_samples(results: Results, size: int) -> Results:
    """Return the rows of so many samples, behind that of the dummies."""
    return Results(*(getattr(results, name)[1 : size + 1] for name in _RESULTS))


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

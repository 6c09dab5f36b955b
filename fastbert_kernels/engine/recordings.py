"""The graphs of an encoder: which are there, and how one is recorded. `engine.graphs` says what they are for."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from fastbert_kernels.engine.answers import AnswerMemory
from fastbert_kernels.engine.buckets import MAX_SAMPLES, WHOLE_DEPTH_TOKENS, Bucket
from fastbert_kernels.engine.entrance import Entrance, EntryInputs, enter
from fastbert_kernels.engine.layer import NoLayer, TorchLayer
from fastbert_kernels.engine.loop import let_out
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.plans import Entry, Place, Plan, StageLayers
from fastbert_kernels.engine.recorders import CudaRecorder, Recorder, RunLayers, Stage
from fastbert_kernels.engine.weights import ExitHead, teacher_classifier


class NotRecorded(Exception):
    """The recorder could not; the message says why."""


class Recordings:
    """What is recorded, each when it is first asked for, where that is allowed. For one thread at a time: see `lock`.

    Attributes:
        layers: of the encoder, and so the next two.
        heads: L.
        backend: of the ops.
        device: of the weights.
        recorder: None where nothing can be recorded, or not any more.
        on_demand: whether a call may record what it lacks.
        places: where batches run, by bucket and plan.
        layer_speeds: float32 [L], what the stages read as the Speeds of layers.
        lock: held by whoever records or runs.
    """

    def __init__(
        self,
        layers: Sequence[TorchLayer | NoLayer],
        heads: Sequence[ExitHead | None],
        backend: str,
        recorder: Recorder | None,
        *,
        on_demand: bool,
        whole_depth_samples: int,
        max_buckets: int,
    ) -> None:
        """Arguments as of `engine.graphs.GraphedLoop`."""
        self.layers, self.heads, self.backend, self.on_demand = layers, heads, backend, on_demand
        first = layers[0]
        assert isinstance(first, TorchLayer)
        self._weight, self._dtype = first.weights.qkv_weight, first.dtype
        self.device, self.hidden_size = self._weight.device, self._weight.shape[1]
        self._whole_depth_samples, self._max_buckets = whole_depth_samples, max_buckets
        self.places: dict[tuple[Bucket, Plan], Place] = {}
        with _ordinary_memory():
            self.layer_speeds = torch.zeros(len(layers), dtype=torch.float32, device=self.device)
        self._answers: AnswerMemory | None = None
        self._ahead = False  # of calls
        self.lock = threading.Lock()
        self.recorder = recorder
        if recorder is None and self.device.type == "cuda":
            self.recorder = CudaRecorder(self.device)
        elif recorder is None:
            self.give_up(f"the weights are on {self.device}, not on a GPU")

    @property
    def depth(self) -> int:
        """L."""
        return len(self.layers)

    @property
    def answers(self) -> AnswerMemory:
        """Return the memory that all stages write their answers to; row 0 is for dummies."""
        if self._answers is None:
            with _ordinary_memory():
                num_labels = teacher_classifier(self.heads).num_labels
                self._answers = AnswerMemory.empty(self._weight, MAX_SAMPLES + 1, num_labels)
        return self._answers

    def give_up(self, reason: str) -> None:
        """Record and replay nothing from now on, and say so."""
        self.recorder = None
        warnings.warn(f"no CUDA graphs, every kernel is launched by itself: {reason}", RuntimeWarning, stacklevel=4)

    def record_ahead(
        self, shapes: Iterable[tuple[int, int, int]], plan: Plan, entrance: Entrance | None, *, full_depth: bool
    ) -> None:
        """Record what batches of these shapes need, the largest first, in whose memory the others find room.

        Args:
            shapes: tokens, samples and longest sample of batches.
            plan: of their rule.
            entrance: of padded calls; None where they are packed in front of the encoder.
            full_depth: whether they also come without early exits.
        """
        buckets = {bucket for shape in shapes if (bucket := Bucket.smallest(*shape))}
        with self.lock, self._recording_ahead():
            if self.recorder is None:
                return
            try:
                with self.recorder.turn():  # what is run once beforehand writes to memory that runs share
                    for bucket in sorted(buckets, key=lambda bucket: (bucket.tokens, bucket.slots), reverse=True):
                        if place := self.place(bucket, plan):
                            self._record_place(place, entrance, full_depth)
            except NotRecorded as error:
                self.give_up(str(error))

    @contextlib.contextmanager
    def _recording_ahead(self) -> Iterator[None]:
        self._ahead = True
        try:
            yield
        finally:
            self._ahead = False

    def _record_place(self, place: Place, entrance: Entrance | None, full_depth: bool) -> None:
        self._all_stages(place)
        self.chain(place)
        if full_depth:
            self.stage(place, self.whole)
        if entrance is not None:
            for early_exits in (True, False) if full_depth else (True,):
                self.entry(place, entrance, early_exits)

    @property
    def whole(self) -> StageLayers:
        """Return all layers as one stage."""
        return StageLayers(0, self.depth, asks=True)

    @property
    def has_entries(self) -> bool:
        """Return whether padded calls may find an entry."""
        return self.on_demand or any(place.entry is not None for place in list(self.places.values()))

    def holds(self, wanted: Bucket | None, plan: Plan) -> bool:
        """Return whether a batch of that bucket may find a place."""
        return wanted is not None and (self.on_demand or self._larger(wanted, plan) is not None)

    def place_for(self, wanted: Bucket, plan: Plan) -> Place | None:
        """Return the place for batches of that bucket, or a larger one; None where there is none."""
        return self.place(wanted, plan) or self._larger(wanted, plan)

    def place(self, bucket: Bucket, plan: Plan) -> Place | None:
        """Return the place of exactly this bucket, in use now or already; None where no further one is available."""
        if (bucket, plan) not in self.places:
            if not self._may_record or len(self.places) >= self._max_buckets:
                return None
            with _ordinary_memory():
                limits = bucket.limits(self.device)
            self.places[bucket, plan] = Place(bucket, plan, limits, self._idle(bucket, 0))
        return self.places[bucket, plan]

    def _larger(self, wanted: Bucket, plan: Plan) -> Place | None:
        places = list(self.places.values())  # others may look while one records
        larger = (place for place in places if place.plan == plan and place.bucket.holds(wanted))
        return min(larger, key=lambda place: (place.bucket.tokens, place.bucket.slots), default=None)

    @property
    def _may_record(self) -> bool:
        return self.on_demand or self._ahead

    def has(self, place: Place, layers: StageLayers) -> bool:
        """Return whether these layers have a stage at `place`, or may get one."""
        return layers in place.stages or self._may_record

    def stage(self, place: Place, layers: StageLayers) -> Stage:
        """Return the stage of these layers at `place`, recorded now or before."""
        if layers not in place.stages:
            before = place.plan.layers_before(layers.first)
            if layers.first == 0:
                inputs = place.start
            elif before is not None:
                inputs = self.stage(place, before).outputs
            else:
                inputs = self._idle(place.bucket, layers.first)
            idle, name = self._idle(place.bucket, layers.first), f"layers {layers.first + 1} to {layers.end}"
            place.stages[layers] = self._record(self._runner(place, layers), inputs, idle, name)
        return place.stages[layers]

    def _all_stages(self, place: Place) -> list[Stage]:
        return [self.stage(place, layers) for layers in place.plan.stages()]

    def chain(self, place: Place) -> Callable[[], None] | None:
        """Return what replays all stages of `place`, made now or before; None where it is not for it or not there."""
        if not self.is_whole(place.bucket):
            return None
        if place.chain is None:
            place.chain = self._chained(self._all_stages(place))
        return place.chain

    def entry(self, place: Place, entrance: Entrance, early_exits: bool) -> Entry | None:
        """Return the entry of padded calls at `place`, made now or before, with its replay; None where none can be."""
        entry, key = place.entry, entrance.key
        known = entry is not None and entry.key == key and early_exits in entry.replays
        if not known and (not self._may_record or not self.is_whole(place.bucket)):
            return None
        if entry is None or entry.key != key:
            with _ordinary_memory():
                inputs, stand_in = (EntryInputs.empty(place.bucket, self.device) for _ in range(2))
                fault = self.answers.fault

            def run(call: EntryInputs) -> tuple[PackedBatch, None]:
                enter(call, place.start, place.bucket, entrance, fault)
                return place.start, None

            entry = place.entry = Entry(key, inputs, self._record(run, inputs, stand_in, "the embedding"))
        if early_exits not in entry.replays:
            behind = self._all_stages(place) if early_exits else [self.stage(place, self.whole)]
            replay = self._chained([entry.stage, *behind])
            if replay is None:
                return None
            entry.replays[early_exits] = replay
        return entry

    def is_whole(self, bucket: Bucket) -> bool:
        """Return whether one graph has all layers there."""
        return bucket.samples <= self._whole_depth_samples and bucket.tokens <= WHOLE_DEPTH_TOKENS

    def _chained(self, stages: Sequence[Stage]) -> Callable[[], None] | None:
        assert self.recorder is not None
        try:
            return self.recorder.chain(stages)
        except RuntimeError as error:
            self._whole_depth_samples = 0
            warnings.warn(
                f"no CUDA graph of all layers, the host starts layer after layer: {error}",
                RuntimeWarning,
                stacklevel=6,
            )
            return None

    def _record(self, run: RunLayers, inputs: object, stand_in: object, name: str) -> Stage:
        assert self.recorder is not None
        try:
            with _ordinary_memory():
                return self.recorder.record(run, inputs, stand_in)
        except RuntimeError as error:
            raise NotRecorded(f"{name} could not be recorded ({error})") from error

    def _runner(self, place: Place, layers: StageLayers) -> RunLayers:
        (lower, upper), plan = place.limits, place.plan
        last = layers.end == self.depth
        head = self.heads[layers.end - 1] if layers.asks else None
        layer_speed = self.layer_speeds[layers.end - 1] if plan.limited and not last else None
        with _ordinary_memory():  # to look at memory as another dtype makes a tensor of the kind of the mode
            results = self.answers.results

        def run(inputs: PackedBatch) -> tuple[PackedBatch, Tensor | None]:
            batch = dataclasses.replace(inputs, cu_seqlens=torch.clamp(inputs.cu_seqlens, lower, upper))
            for layer in self.layers[layers.first : layers.end]:
                batch.hidden = layer(batch.hidden, batch.cu_seqlens, batch.max_seqlen)
            if head is None:
                return batch, None
            return batch, let_out(head, batch, results, layers.end, last, plan.decision, layer_speed, self.backend)

        return run

    def _idle(self, bucket: Bucket, first: int) -> PackedBatch:
        """Return dummies only, as they stand in front of layer `first`."""
        like, slots = self._weight, bucket.slots
        with _ordinary_memory():
            return PackedBatch(
                hidden=like.new_zeros(bucket.tokens, self.hidden_size, dtype=self._dtype),
                cu_seqlens=like.new_zeros(slots + 1, dtype=torch.int32),
                sample_index=like.new_zeros(slots, dtype=torch.int32),
                speed=like.new_zeros(slots, dtype=torch.float32),
                max_seqlen=bucket.max_seqlen,
                history=like.new_zeros(slots, 2, dtype=torch.int32) if first else None,
            )


@contextlib.contextmanager
def _ordinary_memory() -> Iterator[None]:
    """Inside, memory is made that lives on: of the kind that may be written in and outside of inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield

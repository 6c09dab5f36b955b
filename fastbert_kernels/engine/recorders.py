"""How layers become a stage that is replayed: as a CUDA graph."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fastbert_kernels import _extension, backends
from fastbert_kernels.engine.packed import PackedBatch


@dataclass(frozen=True)
class Stage:
    """Recorded layers.

    Attributes:
        inputs: what `replay` reads, always the same memory: a batch, or of an entry a padded call.
        replay: runs the layers.
        outputs: what it writes.
        counts: int32 [2], survivors and their tokens, as it writes them; None where no head is asked behind the layers.
        recording: what the recorder made.
    """

    inputs: Any
    replay: Callable[[], None]
    outputs: PackedBatch
    counts: Tensor | None
    recording: Any = None


# From the inputs of a stage to the batch behind it, with the counts of the survivors if a head is asked.
RunLayers = Callable[[Any], tuple[PackedBatch, Tensor | None]]


class Recorder(Protocol):
    """How layers become a stage."""

    def record(self, run: RunLayers, inputs: Any, stand_in: Any) -> Stage:
        """Compute nothing from `inputs`, whose content may be anything; `stand_in` is of the same kind and valid, a
        batch without real samples. Raises RuntimeError where it cannot."""

    def chain(self, stages: Sequence[Stage]) -> Callable[[], None]:
        """A call that replays stages of which each reads what the one before writes, until no real sample is left:
        real samples have a `sample_index` above 0 and come first. Raises RuntimeError with the reason where it
        cannot."""

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """Around a run: it comes behind all runs before, since they share memory."""


class CudaRecorder:
    """CUDA graphs in one memory pool: what a stage needs in between overlaps with what others need, its outputs do not
    overlap with the outputs of any recorded before."""

    _capturing = threading.Lock()  # one capture at a time in a process

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._done = torch.cuda.Event()

    def record(self, run: RunLayers, inputs: Any, stand_in: Any) -> Stage:
        stream = torch.cuda.current_stream(self._device)
        with self._capturing:
            # Once as it is: kernels are compiled and loaded and library handles made, which a capture must not do. What
            # a capture could not hold shows here, because torch does not recover from a capture that fails.
            self._stream.wait_stream(stream)
            try:
                with torch.cuda.stream(self._stream), backends.reference_refused():
                    run(stand_in)
            finally:
                stream.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph(keep_graph=True)  # for chains
            # The outer context, since the inner one leaves its stream current where a capture fails.
            with (
                torch.cuda.stream(stream),
                torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"),
            ):
                outputs, counts = run(inputs)
            graph.instantiate()
        return Stage(inputs, graph.replay, outputs, counts, graph)

    def chain(self, stages: Sequence[Stage]) -> Callable[[], None]:
        """One graph with conditional nodes, which copies the nodes of the stages' graphs."""
        native, detail = _extension.load()
        if native is None or native.cuda_version is None:
            raise RuntimeError(detail if native is None else "the package was built without its CUDA kernels")
        if reason := native.depth_graph_unsupported():
            raise RuntimeError(reason)
        graph = native.DepthGraph([(stage.recording.raw_cuda_graph(), stage.outputs.sample_index) for stage in stages])

        def replay(_kept: Sequence[Stage] = stages) -> None:  # the memory is the stages'
            graph.launch()

        return replay

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        self._done.wait(torch.cuda.current_stream(self._device))
        try:
            yield
        finally:
            self._done.record(torch.cuda.current_stream(self._device))

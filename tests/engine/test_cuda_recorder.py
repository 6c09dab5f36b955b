"""Around a capture: streams wait for each other, and what cannot be recorded is noticed before a capture begins. With a
stand-in of `torch.cuda`; the captures themselves are in tests/gpu."""

from __future__ import annotations

import contextlib

import pytest
import torch

from fastbert_kernels import ops
from fastbert_kernels.engine.recorders import CudaRecorder
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs


class Stream:
    def __init__(self, name, log):
        self.name, self._log = name, log

    def wait_stream(self, other):
        self._log.append(f"{self.name} waits for {other.name}")


class Cuda:
    """The part of `torch.cuda` that a recorder uses. As in torch, a capture that fails leaves its stream current."""

    def __init__(self, monkeypatch):
        self.log = []
        self.caller, self.side = Stream("caller", self.log), Stream("side", self.log)
        self.current = self.caller
        for name, value in {
            "current_stream": lambda device=None: self.current,
            "Stream": lambda device: self.side,
            "graph_pool_handle": lambda: (0, 1),
            "Event": lambda: None,
            "CUDAGraph": Graph,
            "stream": self.use,
            "graph": self.capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextlib.contextmanager
    def use(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def capture(self, graph, pool, stream, capture_error_mode):
        self.log.append("capture")
        before, self.current = self.current, stream
        yield
        self.current = before


class Graph:
    def __init__(self, keep_graph):
        self.instantiate = self.replay = lambda: None


@pytest.fixture
def cuda(monkeypatch):
    return Cuda(monkeypatch)


def test_streams_of_a_recording(cuda):
    used = []

    def span(batch):
        used.append((batch, cuda.current.name))
        return batch, torch.zeros(2)

    stage = CudaRecorder(torch.device("cuda", 0)).record(span, "inputs", "stand-in")
    assert used == [("stand-in", "side"), ("inputs", "side")] and stage.inputs == "inputs"
    assert cuda.log == ["side waits for caller", "caller waits for side", "capture"]
    assert cuda.current is cuda.caller


def test_no_capture_begins_of_what_runs_in_plain_pytorch(cuda):
    head = cast_attentive_head_inputs(attentive_head_inputs([3, 4]), torch.float32)
    recorder = CudaRecorder(torch.device("cuda", 0))
    with pytest.raises(RuntimeError, match="attentive_head runs in plain PyTorch"):
        recorder.record(lambda batch: ops.attentive_head(*head, backend="reference"), "inputs", "stand-in")
    assert cuda.log == ["side waits for caller", "caller waits for side"]
    assert cuda.current is cuda.caller and recorder._capturing.acquire(blocking=False)
    recorder._capturing.release()
    ops.attentive_head(*head, backend="reference")  # refused no longer


def test_a_capture_that_fails_gives_the_stream_back(cuda):
    def span(batch):
        if batch == "inputs":
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaRecorder(torch.device("cuda", 0)).record(span, "inputs", "stand-in")
    assert cuda.current is cuda.caller

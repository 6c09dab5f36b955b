"""Launches and copies of a call, counted on the CPU with doubles of CUDA graphs."""

from __future__ import annotations

import contextlib

from torch.utils._python_dispatch import TorchDispatchMode

from fastbert_kernels.engine.host_copies import HostCopy, HostCounts, HostLink
from helpers.graphs import EagerRecorder

_MEMORY_ONLY = ("aten::empty", "aten::new_empty", "aten::lift_fresh")
_WAITING = ("aten::nonzero", "aten::is_nonzero", "aten::_local_scalar_dense", "aten::equal")


class LaunchCount(TorchDispatchMode):
    """Counts, where the CPU stands for a GPU.

    Attributes:
        launches: operations that compute or copy; a graph is one.
        waits: how often the host waits for the device.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.launches = self.waits = 0
        self._in_graph = False
        for kind in (HostCopy, HostCounts, HostLink):
            monkeypatch.setattr(kind, "wait", self._counted(kind.wait))

    def _counted(self, wait):
        def counted(*arguments):
            self.waits += 1
            return wait(*arguments)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, schema = func._schema.name, func._schema
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in schema.returns)
        if not self._in_graph and not is_view and not name.startswith(_MEMORY_ONLY):
            self.launches += 1
            self.waits += name.startswith(_WAITING)
        return func(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def graph(self):
        """Count what is called inside as one launch."""
        self.launches += not self._in_graph
        before, self._in_graph = self._in_graph, True
        try:
            yield
        finally:
            self._in_graph = before


class CountedRecorder(EagerRecorder):
    """Its graphs are one launch each."""

    def __init__(self, count):
        self._count = count

    def record(self, run, inputs, stand_in):
        stage = super().record(run, inputs, stand_in)
        object.__setattr__(stage, "replay", self._as_graph(stage.replay))
        return stage

    def chain(self, stages):
        return self._as_graph(super().chain(stages))

    def _as_graph(self, replay):
        def counted():
            with self._count.graph():
                replay()

        return counted

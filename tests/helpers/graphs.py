"""Recorded loops for tests: plain calls in place of graphs, and what a graph may find overwritten is overwritten."""

from __future__ import annotations

import contextlib
import copy
import math

import torch

from fastbert_kernels.engine.buckets import MoveCost
from fastbert_kernels.engine.graphs import GraphedLoop
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.plans import Plan
from fastbert_kernels.engine.recorders import Stage
from fastbert_kernels.engine.rule import ENTROPY_RULE

ALWAYS_MOVE = MoveCost(seconds=0)


def prepare(loop, shapes, rule=ENTROPY_RULE):
    """Record ahead what batches of these (tokens, samples, longest sample) need by such a rule, whatever Speeds it has,
    but not for padded texts; nothing where the rule has no plan."""
    if (plan := Plan.of(rule, loop.heads)) is not None:
        loop.recordings.record_ahead(shapes, plan, None, full_depth=False)


class EagerRecorder:
    """Calls instead of graphs, on any device, with the memory that graphs would have."""

    def record(self, run, inputs, stand_in):
        outputs, counts = run(stand_in)

        def replay():
            batch, numbers = run(inputs)
            for target, source in zip(tensors(outputs, counts), tensors(batch, numbers), strict=True):
                target.copy_(source)

        return Stage(inputs, replay, outputs, counts)

    def chain(self, stages):
        def replay():
            for stage in stages:
                stage.replay()
                if int(stage.outputs.sample_index[0]) == 0:
                    return

        return replay

    def turn(self):
        return contextlib.nullcontext()


def tensors(batch, counts):
    return [value for value in (*vars(batch).values(), counts) if isinstance(value, torch.Tensor)]


class CheckedLayer(TorchLayer):
    """Insists on what attention and heads may rely on."""

    def __call__(self, hidden, cu_seqlens, max_seqlen):
        bounds = cu_seqlens.tolist()
        assert bounds[0] == 0 and bounds[-1] == hidden.shape[0]
        lengths = cu_seqlens.diff()
        assert lengths.min() >= 0 and lengths.max() <= max_seqlen
        return super().__call__(hidden, cu_seqlens, max_seqlen)


class HostileRecorder(EagerRecorder):
    """Before a replay, everything that a graph may find overwritten is: all memory of all stages but its own inputs."""

    def __init__(self):
        self.recorded = []
        self.replayed = []

    def record(self, run, inputs, stand_in):
        if getattr(inputs, "history", None) is None:  # an entry or first stage, which is loaded once it is recorded
            poison(inputs)
        stage = super().record(run, inputs, stand_in)
        self.recorded.append(stage)

        def replay():
            kept = {id(value) for value in vars(inputs).values()}
            for other in self.recorded:
                for batch in (other.inputs, other.outputs):
                    poison(batch, kept)
                if other.counts is not None:
                    other.counts.fill_(-(10**6))
            stage.replay()
            self.replayed.append(stage)

        return Stage(inputs, replay, stage.outputs, stage.counts)


def poison(batch, kept=()):
    for value in vars(batch).values():
        if isinstance(value, torch.Tensor) and id(value) not in kept:
            value.fill_(math.nan if value.is_floating_point() else -(10**6))


def graphed(plain, recorder=None, whole_depth_samples=0, **options):
    """Stage by stage, if not told otherwise."""
    recorder = HostileRecorder() if recorder is None else recorder
    options = {"recorder": recorder, "on_demand": True, "whole_depth_samples": whole_depth_samples, **options}
    return GraphedLoop(plain.layers, plain.heads, plain.backend, **options), recorder


def without_heads(plain, *numbers):
    """The loop without the exit heads behind these layers (from 1)."""
    heads = [None if number in numbers else head for number, head in enumerate(plain.heads, start=1)]
    return LayerLoop(plain.layers, heads, plain.backend)


def assert_equal_runs(loop, plain, batch, rule=ENTROPY_RULE):
    got = loop.run(copy.copy(batch), rule)
    want = plain.run(copy.copy(batch), rule)
    assert torch.equal(got.exit_layer, want.exit_layer)
    torch.testing.assert_close(got.logits, want.logits, equal_nan=True, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got.uncertainty, want.uncertainty, equal_nan=True, rtol=1e-6, atol=1e-6)
    return want

"""The graph of all layers, built for a stand-in of CUDA's graphs on the CPU: which stages run, and in which order."""

from __future__ import annotations

import pytest
import torch


class Stages:
    """Stages that leave so many samples each, and how often they were asked."""

    def __init__(self, left: list[int]):
        self.left = left
        self.samples = torch.full((len(left),), -77, dtype=torch.int32)  # as unwritten memory may be: of any value
        self.ran: list[int] = []

    def __call__(self, number: int) -> None:
        self.ran.append(number)
        self.samples[number] = self.left[number]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("depth", [1, 2, 3, 12, 24])
def test_short_chain_ends_where_no_sample_is_left(library, depth, seed):
    library.configure(seed=seed)
    stages = Stages([1] * depth)
    graph = library.depth_graph(stages, stages.samples)
    assert graph.status == 0
    for last in [*range(depth), 0, depth - 1]:  # a condition must not live on from launch to launch
        stages.left = [3] * last + [0] * (depth - last)
        stages.samples.fill_(5)
        stages.ran.clear()
        graph.launch()
        assert stages.ran == list(range(last + 1))
    graph.destroy()
    assert library.live_graphs() == 0


def test_short_counts_below_zero_end_it_too(library):
    stages = Stages([2, -1, 1])
    graph = library.depth_graph(stages, stages.samples)
    graph.launch()
    assert stages.ran == [0, 1]
    graph.destroy()


def test_short_what_fails_is_told_and_leaves_nothing_behind(library):
    """Each call in turn: creating the graph, its nodes and conditions, and the executable."""
    failed = 0
    while True:
        stages = Stages([1] * 3)
        graph = library.depth_graph(stages, stages.samples, fail_after=failed)
        if graph.status == 0:
            break
        assert graph.executable.value is None and library.live_graphs() == 0
        failed += 1
    assert failed == 1 + 3 + 2 * 3 + 1  # graph, stages, (condition, decision, node) twice, executable
    graph.launch()
    assert stages.ran == [0, 1, 2]
    graph.destroy()


def test_short_no_stages(library):
    assert library.depth_graph(Stages([]), torch.zeros(0, dtype=torch.int32)).status != 0
    assert library.live_graphs() == 0


def test_short_drivers(library):
    assert "CUDA 12.4" in library.depth_graph_unsupported(12030)
    assert library.depth_graph_unsupported(12040) is None
    assert library.depth_graph_unsupported(13000) is None

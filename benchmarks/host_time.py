"""What a layer costs the host on a GPU: Python, dispatcher and binding, with launches that return at once.

    python benchmarks/host_time.py [--rounds 200]

No GPU is needed, and none is used: CPU tensors stand for those of a GPU, the compiled module has stand-ins for its CUDA
kernels and for the CUDA driver (launches/), and so have Triton's driver and the kernel behind PyTorch's attention. CPU
time of one thread, the least of the rounds. So these are lower bounds. What they leave out: the CUDA runtime's own time
for a launch, 2 to 3 us each; the choice of a kernel for a product; pinned memory and events, which a PyTorch without
CUDA does not have. The products of one row that run instead, on the CPU, are a part of their own.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

import launches
from families import result_name
from fastbert_kernels.engine import attention
from fastbert_kernels.engine.cuda_ends import CudaEnds, CudaHeads
from fastbert_kernels.engine.graphs import GraphedLoop
from fastbert_kernels.engine.host_copies import HostCountsPool
from fastbert_kernels.engine.layer import NoLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.recorders import Stage
from fastbert_kernels.engine.rule import ENTROPY_RULE
from fastbert_kernels.engine.spans import PackedState
from fastbert_kernels.engine.weights import AttentiveHeadWeights, LayerWeights
from fastbert_kernels.ops import AttentiveHeadTensors
from harness import common_options, markdown_table, save

Name = TypeVar("Name", bound=Hashable)

WIDTH, HEADS, NARROW, LABELS = 64, 1, 64, 2
SAMPLES, DEPTH = 4, 4
CALLS = 20  # of a part in its turn


@dataclass(frozen=True)
class Part:
    """Something that the host does for a layer.

    Attributes:
        run: does it once.
        ours: whether it is this package's, and not PyTorch's or Triton's.
        times: how often a layer has it.
    """

    run: Callable[[], Any]
    ours: bool
    times: int = 1


def layer_weights() -> LayerWeights:
    """Return a random layer in float32."""
    inner = 4 * WIDTH

    def linear(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
        return torch.randn(outputs, inputs) / inputs**0.5, torch.zeros(outputs)

    qkv, attended, inside, output = (
        linear(*shape) for shape in ((3 * WIDTH, WIDTH), (WIDTH, WIDTH), (inner, WIDTH), (WIDTH, inner))
    )
    norm = torch.ones(WIDTH), torch.zeros(WIDTH)
    return LayerWeights(HEADS, 1e-12, F.gelu, "gelu", *qkv, *attended, *norm, *inside, *output, *norm)


def attentive_head() -> AttentiveHeadWeights:
    shapes = ((NARROW, WIDTH), (NARROW,), (HEADS, NARROW, NARROW), (HEADS, NARROW), (HEADS * NARROW, NARROW))
    return AttentiveHeadWeights(
        AttentiveHeadTensors(*(torch.randn(shape) for shape in (*shapes, (NARROW,), (LABELS, NARROW), (LABELS,))))
    )


def batch_of_four() -> PackedBatch:
    bounds = torch.arange(SAMPLES + 1, dtype=torch.int32)
    return PackedBatch.of(torch.randn(SAMPLES, WIDTH), bounds, 1, 0.5)


class ReplayAtOnce:
    """A recorder whose stages do nothing when they are replayed; nobody leaves."""

    def record(self, run: Any, inputs: PackedBatch, stand_in: PackedBatch) -> Stage:
        outputs, counts = run(stand_in)
        return Stage(inputs, lambda: None, outputs, counts)

    def chain(self, stages: Any) -> Callable[[], None]:
        return lambda: None

    def turn(self) -> Any:
        return nullcontext()


@contextmanager
def attention_returns_at_once() -> Iterator[None]:
    """Attention takes the way it has on a GPU, up to the kernel."""

    def flash(query: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        return (torch.zeros(query.shape),)  # products of what an empty one holds may be slow

    def on_gpu(heads: Tensor, cu_seqlens: Tensor, position_bias: None = None) -> Tensor:
        return attention._varlen(heads, cu_seqlens, 64)

    assert attention._flash_is_as_known()
    before = attention._per_sample, torch.ops.aten._flash_attention_forward
    attention._per_sample, torch.ops.aten._flash_attention_forward = on_gpu, flash
    try:
        yield
    finally:
        attention._per_sample, torch.ops.aten._flash_attention_forward = before


def least_seconds(runs: Mapping[Name, Callable[[], Any]], rounds: int, calls: int) -> dict[Name, float]:
    """Return the CPU time of a call of each, the least of the rounds, in which they take turns.

    A turn is shorter than what a system lets a thread run for, so that some turns have the processor to themselves.
    """
    times: dict[Name, list[int]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            begin = time.thread_time_ns()
            for _ in range(calls):
                run()
            times[name].append(time.thread_time_ns() - begin)
    return {name: 1e-9 * min(found) / calls for name, found in times.items()}


def parts_of_a_layer() -> dict[str, Part]:
    """Return what the plain loop does for a layer, part by part."""
    from fastbert_kernels import ops
    from fastbert_kernels.triton import elementwise

    weights, head, batch = layer_weights(), attentive_head(), batch_of_four()
    results = Results.empty(batch.hidden, SAMPLES, LABELS)
    qkv, inner = torch.randn(SAMPLES, 3 * WIDTH), torch.randn(SAMPLES, 4 * WIDTH)
    decided = ops.attentive_head(batch.hidden, batch.cu_seqlens, batch.speed, head.tensors, backend="cuda")
    logits, uncertainty, history, _ = decided
    stay = torch.ones(SAMPLES, dtype=torch.bool)
    state = PackedState(batch_of_four(), ENTROPY_RULE, torch.arange(SAMPLES))
    ends = CudaEnds({1: CudaHeads().of(head)}, state, results, HostCountsPool())

    def compact() -> Any:
        own = batch.hidden, batch.cu_seqlens, stay, batch.sample_index, batch.speed
        outputs = results.logits, results.uncertainty, results.exit_layer
        return ops.compact(*own, history, logits, uncertainty, 1, *outputs, backend="cuda")

    rows = batch.hidden.clone()
    return {
        "layer end": Part(lambda: ends.let_out(1, False, None), True),
        "the op attentive_head": Part(
            lambda: ops.attentive_head(batch.hidden, batch.cu_seqlens, batch.speed, head.tensors, backend="cuda"),
            True,
            0,
        ),
        "the op compact": Part(compact, True, 0),
        "attention": Part(lambda: attention.packed_attention(qkv, batch.cu_seqlens, 64, HEADS), False),
        "bias and LayerNorm": Part(
            lambda: elementwise.add_layer_norm_(rows, weights.output_bias, batch.hidden, weights.output_norm), True, 2
        ),
        "bias and GELU": Part(lambda: elementwise.bias_activation_(inner, weights.intermediate_bias, "gelu"), True, 1),
        "products": Part(lambda: four_products(batch.hidden, qkv, inner, weights), False),
    }


def four_products(hidden: Tensor, qkv: Tensor, inner: Tensor, weights: LayerWeights) -> None:
    F.linear(hidden, weights.qkv_weight, weights.qkv_bias)
    F.linear(hidden, weights.attention_output_weight)
    F.linear(hidden, weights.intermediate_weight)
    F.linear(inner, weights.output_weight)


def loops(depth: int) -> dict[str, Callable[[], Any]]:
    """Return runs of so many layers: launched, the same with layers that do nothing, and as recorded stages."""
    from fastbert_kernels.engine.fused_layer import FusedLayer

    layers = [FusedLayer(layer_weights())] * depth
    heads, batch = [attentive_head() for _ in range(depth)], batch_of_four()
    plain = LayerLoop(layers, heads, "cuda")
    ends = LayerLoop([NoLayer(torch.float32)] * depth, heads, "cuda")
    graphed = GraphedLoop(layers, heads, "cuda", recorder=ReplayAtOnce(), on_demand=True, whole_depth_samples=0)
    return {
        name: lambda loop=loop: loop.run(copy.copy(batch), ENTROPY_RULE)
        for name, loop in (
            ("a layer, launched", plain),
            ("a layer end, launched", ends),
            ("a stage, recorded", graphed),
        )
    }


@torch.inference_mode()
def measure(rounds: int) -> dict[str, Any]:
    parts = parts_of_a_layer()
    seconds = least_seconds({name: part.run for name, part in parts.items()}, rounds, CALLS)
    runs = {(name, depth): run for depth in (DEPTH, 2) for name, run in loops(depth).items()}
    times = least_seconds(runs, rounds, 1)
    per_layer = {name: (times[name, DEPTH] - times[name, 2]) / (DEPTH - 2) for name, depth in runs if depth == 2}
    return {
        "parts": {
            name: {"seconds": seconds[name], "times": part.times, "ours": part.ours} for name, part in parts.items()
        },
        "loops": per_layer,
    }


def tables(result: dict[str, Any]) -> str:
    rows = [
        {
            "part of a layer": name,
            "us": f"{1e6 * part['seconds']:.1f}",
            "times a layer": str(part["times"]) if part["times"] else "not in the loop",
            "whose": "ours" if part["ours"] else "PyTorch's or Triton's",
        }
        for name, part in result["parts"].items()
    ]
    whole = [{"in a loop": name, "us": f"{1e6 * seconds:.1f}"} for name, seconds in result["loops"].items()]
    title = "# Host time of a layer on a GPU, launches that return at once"
    return f"{title}\n\n{markdown_table(rows)}\n\n{markdown_table(whole)}"


def main() -> None:
    parser = common_options("Times what a layer costs the host on a GPU, without one.")
    parser.add_argument("--rounds", type=int, default=200, help="the least of so many is reported")
    options: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    launches.Launches()
    from launches import triton_driver

    triton_driver.use()
    with attention_returns_at_once():
        result = measure(2 if options.quick else options.rounds)
    print(tables(result))
    if not options.quick:
        save(options.out, result_name("host_time"), result, tables(result))


if __name__ == "__main__":
    main()

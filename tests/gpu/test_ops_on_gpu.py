"""The ops on a GPU: accuracy of every backend, streams, graph capture, silence towards the host, and torch.compile."""

from __future__ import annotations

import pytest
import torch

from fastbert_kernels import ops
from fastbert_kernels.backends import BACKENDS
from helpers.accuracy import assert_attentive_head_is_accurate, assert_pooled_exit_head_is_accurate, check_compaction
from helpers.criteria import CHANGES, OF_CLASSES, SCORES, STABLE, options_of
from helpers.op_inputs import (
    attentive_head_inputs,
    cast_attentive_head_inputs,
    compaction_inputs,
    map_tensors,
    pooled_inputs,
)

pytestmark = pytest.mark.gpu

ODD_LENGTHS = [1, 5, 64, 100, 2, 63, 65, 129, 300, 512]
GPU_BACKENDS = [name for name, backend in BACKENDS.items() if backend.device_type == "cuda"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def to_gpu(value):
    return map_tensors(torch.Tensor.cuda, value)


@pytest.fixture(params=GPU_BACKENDS)
def backend(request):
    if reason := BACKENDS[request.param].unavailable():
        pytest.skip(f"backend {request.param}: {reason}")
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("hidden_size", "narrow", "heads", "labels"),
    [(768, 128, 2, 2), (384, 128, 2, 5), (8, 64, 1, 1000), (136, 256, 8, 3), (1024, 128, 4, 20)],
)
def test_attentive_head(poisoned_memory, backend, dtype, hidden_size, narrow, heads, labels):
    inputs = attentive_head_inputs(ODD_LENGTHS, hidden_size, narrow, heads, labels)
    assert_attentive_head_is_accurate(inputs, dtype, backend, device="cuda")


@pytest.mark.parametrize("narrow_activation", ["tanh", "identity"])
@pytest.mark.parametrize("criterion", OF_CLASSES)
def test_activations_and_criteria(backend, narrow_activation, criterion):
    options = {"narrow_activation": narrow_activation, "mlp_activation": "identity", **options_of(criterion, 3)}
    assert_attentive_head_is_accurate(
        attentive_head_inputs(ODD_LENGTHS, 768, 128, 8, 20), torch.bfloat16, backend, "cuda", **options
    )


def test_stability_over_three_heads(backend):
    for sample in range(len(SCORES[0])):
        history = None
        for scores, changes in zip(SCORES, CHANGES, strict=True):
            hidden, bounds, speed = torch.zeros(1, 8), torch.tensor([0, 1]).int(), torch.tensor([STABLE])
            arguments = to_gpu([hidden, bounds, speed, [torch.zeros(1, 8)], [torch.tensor([scores[sample]])]])
            _, change, history, keep = ops.pooled_exit_head(
                *arguments, criterion="stability", history=history, backend=backend
            )
            assert change.tolist() == pytest.approx([changes[sample]], abs=0, nan_ok=True)
            assert keep.tolist() == [not changes[sample] < STABLE]


def test_bounds_that_leave_the_rows(backend):
    hidden, cu_seqlens, speed, head = to_gpu(
        cast_attentive_head_inputs(attentive_head_inputs([3, 5, 4, 2], 384, 128, 2, 5), torch.bfloat16)
    )
    good = ops.attentive_head(hidden, cu_seqlens, speed, head, backend=backend)
    cu_seqlens[4] += 1
    bad = ops.attentive_head(hidden, cu_seqlens, speed, head, backend=backend)
    assert all(torch.equal(one[:3], other[:3]) for one, other in zip(bad, good, strict=True))
    assert bad[0][3].isnan().all() and bad[1][3].isnan() and bad[3][3]


def test_views_into_larger_tensors(backend):
    """The kernels read 16 bytes at a time, and here nothing begins where 16 divides the address."""
    head = to_gpu(cast_attentive_head_inputs(attentive_head_inputs(ODD_LENGTHS, 384, 128, 2, 5), torch.bfloat16))
    views = map_tensors(lambda x: torch.cat((x.flatten()[:1], x.flatten()))[1:].view(x.shape), head)
    for got, want in zip(
        ops.attentive_head(*views, backend=backend), ops.attentive_head(*head, backend=backend), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
@pytest.mark.parametrize("sizes", [(768, 2), (384, 384, 5), (136, 64, 32, 500)])
def test_pooled_exit_head(poisoned_memory, backend, dtype, pooling, sizes):
    inputs = to_gpu(pooled_inputs(ODD_LENGTHS, sizes, dtype))
    assert_pooled_exit_head_is_accurate(inputs, dtype, backend, pooling=pooling)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_compact(poisoned_memory, backend, dtype, share):
    lengths = torch.randint(0, 130, (257,)).tolist()
    keep = (torch.rand(257) < share).tolist()
    check_compaction(to_gpu(compaction_inputs(lengths, keep, width=768, dtype=dtype)), backend)


@pytest.mark.parametrize("place", [-1, 1 << 30])
def test_compact_with_a_bad_place(backend, place):
    inputs = to_gpu(compaction_inputs([3, 1, 5], [True, False, True]))
    inputs[3][1] = place
    assert ops.compact(*inputs, backend=backend)[5].tolist() == [-1, -1]


def test_compact_of_very_many_samples(backend):
    lengths = torch.randint(0, 3, (65_536,)).tolist()
    keep = (torch.rand(65_536) < 0.5).tolist()
    check_compaction(to_gpu(compaction_inputs(lengths, keep, width=8)), backend)


def test_compact_beyond_two_to_the_31_bytes(backend):
    tokens = (1 << 31) // (1024 * 4) + 4096
    lengths = [tokens // 3, 5, tokens - tokens // 3 - 5]
    inputs = to_gpu(compaction_inputs([1, 1, 1], [False, True, True]))
    inputs[0] = torch.empty(tokens, 1024, device="cuda")
    inputs[0].copy_(torch.arange(tokens, device="cuda", dtype=torch.float32)[:, None].expand(-1, 1024))
    inputs[1] = torch.tensor([0, lengths[0], lengths[0] + 5, tokens], dtype=torch.int32, device="cuda")
    hidden, *_, counts = ops.compact(*inputs, backend=backend)
    kept = tokens - lengths[0]
    assert counts.tolist() == [2, kept]
    assert torch.equal(hidden[:kept], inputs[0][lengths[0] :])


def test_ops_never_wait_for_the_device(backend):
    head = to_gpu(cast_attentive_head_inputs(attentive_head_inputs(ODD_LENGTHS, 384, 128, 2, 5), torch.bfloat16))
    rows = to_gpu(compaction_inputs([3, 2, 4], [True, False, True]))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.attentive_head(*head, backend=backend)
        ops.compact(*rows, backend=backend)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_ops_run_on_the_current_stream(backend):
    """Work queued before on another stream must not be overtaken by an op on that stream."""
    head = to_gpu(cast_attentive_head_inputs(attentive_head_inputs(ODD_LENGTHS, 384, 128, 2, 5), torch.bfloat16))
    want = ops.attentive_head(*head, backend=backend)[0]
    hidden = head[0].clone()
    head[0] = torch.zeros_like(hidden)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        head[0].copy_(hidden)
        got = ops.attentive_head(*head, backend=backend)[0]
    stream.synchronize()
    torch.testing.assert_close(got, want)


def test_capture_and_replay_of_a_cuda_graph(backend):
    head = to_gpu(cast_attentive_head_inputs(attentive_head_inputs(ODD_LENGTHS, 384, 128, 2, 5), torch.bfloat16))
    out = [torch.zeros(len(ODD_LENGTHS), 5), torch.zeros(len(ODD_LENGTHS)), torch.zeros(len(ODD_LENGTHS)).long()]
    out = to_gpu(out)
    index = torch.arange(len(ODD_LENGTHS), device="cuda", dtype=torch.int32)

    def run():
        logits, uncertainty, history, keep = ops.attentive_head(*head, backend=backend)
        arguments = (*head[:2], keep, index, head[2], history, logits, uncertainty, 1, *out)
        return ops.compact(*arguments, backend=backend)

    warm_up = torch.cuda.Stream()
    with torch.cuda.stream(warm_up):
        run()
    warm_up.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    head[0].copy_(torch.randn_like(head[0]))
    head[2].fill_(0.7)
    graph.replay()
    torch.cuda.synchronize()
    replayed = [tensor.clone() for tensor in captured]
    for got, want in zip(replayed[1:], run()[1:], strict=True):
        assert torch.equal(got, want)


def test_reduce_overhead_uses_the_right_stream(backend):
    head = to_gpu(cast_attentive_head_inputs(attentive_head_inputs(ODD_LENGTHS, 384, 128, 2, 5), torch.bfloat16))
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *x: ops.attentive_head(*x, backend=backend)[0] * 2, fullgraph=True, mode="reduce-overhead"
    )
    for _ in range(4):
        head[0] = torch.randn_like(head[0])
        torch.testing.assert_close(compiled(*head).clone(), ops.attentive_head(*head, backend=backend)[0] * 2)


def test_second_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    head = map_tensors(
        lambda x: x.to("cuda:1"), cast_attentive_head_inputs(attentive_head_inputs([4, 3]), torch.float32)
    )
    torch.testing.assert_close(ops.attentive_head(*head)[0], ops.attentive_head(*head, backend="reference")[0])
    assert torch.cuda.current_device() == 0

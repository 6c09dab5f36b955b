"""The encoder layer with element-wise Triton kernels on a GPU: accuracy, streams, graph capture, silence towards the
host, and torch.compile."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton.language", reason="triton is not installed")

import fastbert_kernels
from fastbert_kernels.backends import BACKENDS
from fastbert_kernels.engine.fused_layer import FusedLayer
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.weights import GELU_BY_TANH
from fastbert_kernels.hosts import fastbert_hf as host
from fastbert_kernels.layer_norm import LayerNorm
from fastbert_kernels.triton.elementwise import add_layer_norm_, bias_activation_
from helpers.accuracy import FLOOR, assert_accurate, floor
from helpers.models import spread_model
from helpers.op_inputs import cu_seqlens_of, layer_weights
from helpers.rounding import rivals

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ODD_LENGTHS = [1, 5, 64, 100, 2, 63, 65, 129, 300, 512]
FUNCTIONS = {"gelu": F.gelu, "relu": F.relu}


@pytest.fixture(autouse=True)
def needs_triton():
    if reason := BACKENDS["triton"].unavailable():
        pytest.skip(f"backend triton: {reason}")


def weights_on_gpu(sizes, dtype, activation="gelu", device="cuda"):
    weights = TorchLayer.cast(layer_weights(*sizes, activation), dtype).weights
    tensors = {
        field.name: value.to(device)
        for field in dataclasses.fields(weights)
        if isinstance(value := getattr(weights, field.name), torch.Tensor)
    }
    return dataclasses.replace(weights, **tensors)


def inputs_on_gpu(lengths, width, dtype, device="cuda"):
    hidden = torch.randn(sum(lengths), width, device=device).to(dtype)
    return hidden, cu_seqlens_of(lengths).to(device), max(lengths)


def assert_as_accurate_as_pytorch(got, compute, want):
    theirs, unit = rivals(compute, got.numel()), floor(want, got.dtype)
    assert got.dtype == theirs[0].dtype and got.shape == theirs[0].shape
    assert_accurate(got, want, theirs, least=unit, mean_least=unit / 20)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 511), (63, 513), (1000, 3072), (4099, 1001), (300_000, 64)])
def test_bias_activation(dtype, activation, shape):
    rows, bias = 3 * torch.randn(shape, device="cuda").to(dtype), torch.randn(shape[1], device="cuda").to(dtype)
    function = FUNCTIONS[activation]
    want = function(rows.double() + bias.double())
    got = bias_activation_(rows.clone(), bias, activation)
    assert_as_accurate_as_pytorch(got, lambda: function(rows + bias), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(3, 7), (5, 300), (1000, 384), (4099, 768), (63, 1024), (100, 2000), (65, 4096), (9, 8191), (300_000, 8)]
)
def test_add_layer_norm(dtype, shape):
    rows, residual = 2 * torch.randn(2, *shape, device="cuda").to(dtype)
    bias, weight, norm_bias = torch.randn(3, shape[1], device="cuda").to(dtype)
    sizes, epsilon = shape[1:], 1e-3 if shape[1] < 16 else 1e-12
    total = rows.double() + bias.double() + residual.double()
    want = F.layer_norm(total, sizes, weight.double(), norm_bias.double(), epsilon)
    got = add_layer_norm_(rows.clone(), bias, residual, LayerNorm(weight, norm_bias, epsilon))
    assert_as_accurate_as_pytorch(
        got, lambda: F.layer_norm(rows + bias + residual, sizes, weight, norm_bias, epsilon), want
    )


def test_rows_beyond_two_to_the_31_elements():
    tokens = 2**31 // 768 + 100
    rows = torch.zeros(tokens, 768, dtype=torch.bfloat16, device="cuda")
    residual = torch.zeros_like(rows)
    last, beside = torch.randn(2, 90, 768, device="cuda").bfloat16()
    rows[-90:], residual[-90:] = last, beside
    bias, weight, norm_bias = torch.randn(3, 768, device="cuda").bfloat16()
    want = add_layer_norm_(last.clone(), bias, beside, LayerNorm(weight, norm_bias, 1e-12))
    assert torch.equal(add_layer_norm_(rows, bias, residual, LayerNorm(weight, norm_bias, 1e-12))[-90:], want)
    want = bias_activation_(want.clone(), bias, "gelu")
    assert torch.equal(bias_activation_(rows, bias, "gelu")[-90:], want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [*FUNCTIONS, GELU_BY_TANH])
@pytest.mark.parametrize("sizes", [(384, 1536, 12), (768, 3072, 12), (72, 130, 9)])
@pytest.mark.parametrize("lengths", [[1], [128] * 8, ODD_LENGTHS])
def test_layer(poisoned_memory, dtype, activation, sizes, lengths):
    """Error against float64 at most twice that of the layer in plain PyTorch calls."""
    weights = weights_on_gpu(sizes, dtype, activation)
    hidden, *bounds = inputs_on_gpu(lengths, sizes[0], dtype)
    want = TorchLayer.cast(weights, torch.float64)(hidden.double(), *bounds)
    compute = functools.partial(TorchLayer(weights), hidden, *bounds)
    assert_as_accurate_as_pytorch(FusedLayer(weights)(hidden, *bounds), compute, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_head_size_of_tinybert(poisoned_memory, dtype):
    test_layer(None, dtype, "gelu", (312, 1200, 12), ODD_LENGTHS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [FusedLayer, TorchLayer])
def test_no_tokens(dtype, kind):
    """Samples without tokens, which is what is left when all others have left."""
    layer = kind(weights_on_gpu((384, 1536, 12), dtype))
    hidden, cu_seqlens, _ = inputs_on_gpu([0, 0], 384, dtype)
    assert layer(hidden, cu_seqlens, 64).shape == (0, 384)
    torch.cuda.synchronize()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_stays_in_its_sample(dtype):
    layer = FusedLayer(weights_on_gpu((384, 1536, 12), dtype))
    hidden, *bounds = inputs_on_gpu([40, 30, 50], 384, dtype)
    good = layer(hidden, *bounds)
    hidden[50, 3] = float("nan")
    got = layer(hidden, *bounds)
    assert got[40:70].isnan().all()
    assert torch.equal(got[:40], good[:40]) and torch.equal(got[70:], good[70:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer_never_waits_for_the_device(dtype):
    layer, inputs = FusedLayer(weights_on_gpu((384, 1536, 12), dtype)), inputs_on_gpu(ODD_LENGTHS, 384, dtype)
    layer(*inputs)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_layer_runs_on_the_current_stream():
    layer, (hidden, *bounds) = (
        FusedLayer(weights_on_gpu((384, 1536, 12), torch.bfloat16)),
        inputs_on_gpu(ODD_LENGTHS, 384, torch.bfloat16),
    )
    want = layer(hidden, *bounds)
    late = torch.zeros_like(hidden)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(hidden)
        got = layer(late, *bounds)
    stream.synchronize()
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_capture_and_replay_of_a_cuda_graph(dtype):
    layer, (hidden, *bounds) = (
        FusedLayer(weights_on_gpu((384, 1536, 12), dtype)),
        inputs_on_gpu(ODD_LENGTHS, 384, dtype),
    )
    warm_up = torch.cuda.Stream()
    with torch.cuda.stream(warm_up):
        layer(hidden, *bounds)
    warm_up.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layer(hidden, *bounds)
    for _ in range(2):
        hidden.copy_(torch.randn_like(hidden))
        graph.replay()
        torch.cuda.synchronize()
        torch.testing.assert_close(captured, layer(hidden, *bounds), rtol=0, atol=10 * FLOOR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"dynamic": True}, {"mode": "reduce-overhead"}], ids=str)
def test_torch_compile(dtype, options):
    layer = FusedLayer(weights_on_gpu((384, 1536, 12), dtype))
    torch._dynamo.reset()
    compiled = torch.compile(layer.__call__, fullgraph=True, **options)
    with torch.inference_mode():
        for lengths in (ODD_LENGTHS, [7, 9], [128] * 8, [128] * 8):
            inputs = inputs_on_gpu(lengths, 384, dtype)
            torch.testing.assert_close(compiled(*inputs).clone(), layer(*inputs), rtol=0, atol=10 * FLOOR[dtype])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_patched_models_take_the_layer(dtype):
    model = spread_model().cuda()
    for backend, kind in (("auto", FusedLayer), ("triton", FusedLayer), ("reference", TorchLayer)):
        loop = host.encoder(model, dtype, backend).get()
        assert {type(layer) for layer in loop.layers} == {kind}
    assert fastbert_kernels.is_patched(fastbert_kernels.patch(model, dtype=dtype))


def test_second_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    weights = weights_on_gpu((384, 1536, 12), torch.float32, device="cuda:1")
    inputs = inputs_on_gpu(ODD_LENGTHS, 384, torch.float32, device="cuda:1")
    torch.testing.assert_close(FusedLayer(weights)(*inputs), TorchLayer(weights)(*inputs), rtol=1e-4, atol=1e-4)
    assert torch.cuda.current_device() == 0

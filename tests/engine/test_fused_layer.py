"""The encoder layer with element-wise Triton kernels: interpreted against the layer in plain PyTorch calls, as
torch.compile sees it, and where it is chosen."""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton.language", reason="triton is not installed")

from fastbert_kernels import backends
from fastbert_kernels.engine import encoder
from fastbert_kernels.engine.dtypes import TanhGelu, hidden_dtype
from fastbert_kernels.engine.encoder import prepare_encoder
from fastbert_kernels.engine.fused_layer import FusedLayer, linear_gelu_by_tanh
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.weights import GELU_BY_TANH
from helpers.accuracy import FLOOR, assert_accurate
from helpers.compiled_layers import compiled_graphs, on_cuda
from helpers.op_inputs import cu_seqlens_of, layer_weights
from helpers.rounding import rivals
from helpers.triton_interpreter import INTERPRETING, interpreted_elsewhere, round_to_nearest

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

if INTERPRETING:
    round_to_nearest()


test_everything_interpreted_in_a_process_of_its_own = interpreted_elsewhere(__file__)


def inputs_of(weights, lengths, dtype):
    hidden = torch.randn(sum(lengths), weights.qkv_weight.shape[1]).to(dtype)
    return hidden, cu_seqlens_of(lengths), max(lengths)


@pytest.mark.usefixtures("poisoned_memory")
class TestInterpreted:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("activation", ["gelu", "relu", GELU_BY_TANH])
    @pytest.mark.parametrize(
        ("sizes", "lengths"),
        [((32, 64, 4), [1]), ((60, 35, 3), [5, 0, 1, 33, 2]), ((384, 1536, 12), [7, 7]), ((520, 260, 8), [5, 0, 1, 9])],
    )
    @pytest.mark.parametrize("layer_norm", ["standard", "unbiased"])
    def test_accuracy(self, dtype, activation, sizes, lengths, layer_norm):
        """Error against float64 at most twice that of the layer in plain PyTorch calls in the same dtype."""
        weights = layer_weights(*sizes, activation, layer_norm)
        cast = TorchLayer.cast(weights, dtype).weights
        hidden, bounds, longest = inputs_of(weights, lengths, dtype)
        want = TorchLayer.cast(cast, torch.float64)(hidden.double(), bounds, longest)
        theirs = rivals(lambda: TorchLayer(cast)(hidden, bounds, longest), answers=want.numel())
        before = hidden.clone()
        got = FusedLayer(cast)(hidden, bounds, longest)
        assert got.dtype == dtype and got.shape == hidden.shape and torch.equal(hidden, before)
        unit = FLOOR[dtype] * want.abs().max()
        assert_accurate(got, want, theirs, least=unit, mean_least=unit / 20)

    def test_relative_positions(self):
        weights = TorchLayer.cast(layer_weights(32, 64, 4, positions=9), torch.float32).weights
        hidden, bounds, longest = inputs_of(weights, [4, 9, 5], torch.float32)
        want = TorchLayer(weights)(hidden, bounds, longest)
        torch.testing.assert_close(FusedLayer(weights)(hidden, bounds, longest), want)

    def test_a_nan_stays_in_its_sample(self):
        layer = FusedLayer.cast(layer_weights(32, 64, 4), torch.float32)
        hidden, bounds, longest = inputs_of(layer.weights, [4, 3, 5], torch.float32)
        good = layer(hidden, bounds, longest)
        hidden[5, 3] = math.nan
        got = layer(hidden, bounds, longest)
        others = torch.tensor([*range(4), *range(7, 12)])
        assert got[4:7].isnan().all() and torch.equal(got[others], good[others])

    def test_hidden_states_with_gaps(self):
        layer = FusedLayer.cast(layer_weights(32, 64, 4), torch.float32)
        hidden, bounds, longest = inputs_of(layer.weights, [4, 3], torch.float32)
        gaps = torch.cat([hidden, hidden], dim=1)[:, :32]
        torch.testing.assert_close(layer(gaps, bounds, longest), layer(hidden, bounds, longest))


@pytest.mark.skipif(INTERPRETING, reason="interpreted kernels cannot be traced")
@pytest.mark.parametrize("dynamic", [None, True])
def test_torch_compile_sees_the_kernels_in_one_graph(monkeypatch, dynamic):
    with FakeTensorMode():
        layer = FusedLayer(on_cuda(TorchLayer.cast(layer_weights(64, 128, 2), torch.bfloat16).weights))
        graphs = compiled_graphs(layer, 64, monkeypatch, dynamic)
    for targets in graphs:
        assert targets.count("triton_kernel_wrapper_mutation") == 3
    assert len(graphs) == (1 if dynamic else 2)


@pytest.mark.skipif(INTERPRETING, reason="interpreted kernels take no tensors without values")
def test_gelu_by_tanh_is_a_part_of_the_product():
    with FakeTensorMode(), mock.patch.object(torch, "_addmm_activation", wraps=torch._addmm_activation) as product:
        rows = torch.empty(5, 64, dtype=torch.bfloat16, device="cuda")
        weight, bias = (torch.empty(*shape, dtype=torch.bfloat16, device="cuda") for shape in ((128, 64), (128,)))
        assert linear_gelu_by_tanh(rows, weight, bias).shape == (5, 128)
    (arguments,) = product.call_args_list
    assert arguments.kwargs == {"use_gelu": True} and arguments.args[2].shape == (64, 128)


def test_gelu_by_tanh_is_as_near_as_it_is_said_to_be():
    layer = layer_weights(32, 64, 4)
    x = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    difference = (layer.by_tanh().activation(x) - layer.activation(x)).abs().max()
    assert 4.6e-4 < difference < 4.8e-4
    rows, weight, bias = torch.randn(3, 5), torch.randn(7, 5), torch.randn(7)
    want = layer.by_tanh().activation(rows @ weight.T + bias)
    torch.testing.assert_close(linear_gelu_by_tanh(rows, weight, bias), want)


@pytest.mark.skipif(INTERPRETING, reason="about the choice, not the kernels")
class TestChoice:
    HERE = backends.Backend("triton", "cuda", lambda: None)
    MISSING = backends.Backend("triton", "cuda", lambda: "not installed")

    def kind(self, weights, dtype, backend, where="cuda"):
        """The class of the layers that an encoder gets. GraphedLoop, which needs a real device, is only noted."""
        graphed = []

        def note(*arguments):
            graphed.append(True)
            return LayerLoop(*arguments)

        with FakeTensorMode(allow_non_fake_inputs=True), mock.patch.object(encoder, "GraphedLoop", note):
            loop = prepare_encoder([on_cuda(weights) if where == "cuda" else weights] * 2, [], dtype, backend)
        (kind,) = {type(layer) for layer in loop.layers}
        assert loop.dtype == hidden_dtype(dtype, weights.qkv_weight.dtype)
        assert loop.precision.endswith("with GELU by tanh") == isinstance(dtype, TanhGelu)
        assert bool(graphed) == (where == "cuda" and backend != "reference")
        return kind

    @pytest.mark.parametrize("dtype", [None, *DTYPES])
    @pytest.mark.parametrize("activation", ["gelu", "relu", GELU_BY_TANH])
    @pytest.mark.parametrize("backend", ["triton", "cuda"])
    def test_fused_on_cuda(self, monkeypatch, dtype, activation, backend):
        monkeypatch.setitem(backends.BACKENDS, "cuda", backends.Backend("cuda", "cuda", lambda: None))
        monkeypatch.setitem(backends.BACKENDS, "triton", self.HERE)
        weights = TorchLayer.cast(layer_weights(32, 64, 4, activation), torch.float32).weights
        assert self.kind(weights, dtype, backend) is FusedLayer
        if activation == "gelu":
            assert self.kind(weights, TanhGelu(dtype), backend) is FusedLayer
        else:
            with pytest.raises(ValueError, match="own GELU is the one by tanh|this model has 'relu'"):
                self.kind(weights, TanhGelu(dtype), backend)

    @pytest.mark.parametrize(
        ("dtype", "sizes", "activation"),
        [
            (torch.float64, (32, 64, 4), "gelu"),
            (torch.float32, (32, 64, 4), "silu"),
            (torch.float32, (8200, 1, 4), "relu"),
        ],
    )
    def test_plain_where_the_kernels_do_not_serve(self, monkeypatch, dtype, sizes, activation):
        monkeypatch.setitem(backends.BACKENDS, "triton", self.HERE)
        with FakeTensorMode():
            weights = dataclasses.replace(layer_weights(*sizes), activation_name=activation)
        assert self.kind(weights, dtype, "triton") is TorchLayer
        assert FusedLayer.unsupported(dtype, weights).startswith("the ")

    def test_plain_for_the_reference_and_on_a_cpu(self, monkeypatch):
        monkeypatch.setitem(backends.BACKENDS, "triton", self.HERE)
        weights = layer_weights(32, 64, 4)
        assert self.kind(weights, torch.float16, "reference") is TorchLayer
        assert self.kind(weights, torch.float16, "reference", where="cpu") is TorchLayer
        assert self.kind(weights, torch.float16, "auto", where="cpu") is TorchLayer

    def test_plain_where_triton_is_missing(self, monkeypatch):
        monkeypatch.setitem(backends.BACKENDS, "cuda", backends.Backend("cuda", "cuda", lambda: None))
        monkeypatch.setitem(backends.BACKENDS, "triton", self.MISSING)
        assert self.kind(layer_weights(32, 64, 4), torch.float32, "cuda") is TorchLayer

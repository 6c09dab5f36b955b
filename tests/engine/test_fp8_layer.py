"""The encoder layer with products in FP8: its kernels interpreted and PyTorch's product in FP8, against the layer in
float64 and the same roundings in plain PyTorch; what torch.compile sees; and where it is refused."""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton.language", reason="triton is not installed")

import fastbert_kernels
from fastbert_kernels import backends
from fastbert_kernels.engine import encoder, fp8_layer
from fastbert_kernels.engine.dtypes import PRODUCTS, Fp8
from fastbert_kernels.engine.encoder import prepare_encoder
from fastbert_kernels.engine.fp8_layer import Fp8Layer
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.weights import GELU_BY_TANH
from fastbert_kernels.hosts import fastbert_hf as host
from helpers.compiled_layers import compiled_graphs, on_cuda
from helpers.fp8 import RoundingLayer, layer_with_rounding, logits_of_all_exits, loop_of, share
from helpers.models import spread_model
from helpers.op_inputs import cu_seqlens_of, layer_weights
from helpers.triton_interpreter import INTERPRETING, interpreted_elsewhere, round_to_nearest

if INTERPRETING:
    round_to_nearest()


test_everything_interpreted_in_a_process_of_its_own = interpreted_elsewhere(__file__)


def inputs_of(weights, lengths):
    hidden = torch.randn(sum(lengths), weights.qkv_weight.shape[1]).bfloat16()
    return hidden, cu_seqlens_of(lengths), max(lengths)


@pytest.mark.usefixtures("poisoned_memory")
class TestInterpreted:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("activation", ["gelu", "relu"])
    @pytest.mark.parametrize("layer_norm", ["standard", "unbiased"])
    @pytest.mark.parametrize(
        ("sizes", "lengths"), [((32, 64, 4), [1]), ((48, 80, 3), [5, 0, 1, 33, 2]), ((384, 1536, 12), [7, 7, 20])]
    )
    def test_accuracy(self, activation, layer_norm, sizes, lengths):
        """As near to float64 as its roundings allow, and nearer to the same roundings with all else in float64."""
        weights = layer_weights(*sizes, activation, layer_norm)
        layer = Fp8Layer.cast(weights, torch.bfloat16)
        hidden, bounds, longest = inputs_of(weights, lengths)
        exact = TorchLayer.cast(weights, torch.float64)(hidden.double(), bounds, longest)
        same = layer_with_rounding(weights, hidden, bounds, longest)
        before = hidden.clone()
        got = layer(hidden, bounds, longest)
        assert got.dtype == torch.bfloat16 and got.shape == hidden.shape and torch.equal(hidden, before)
        assert share(got - exact, exact) <= 1.2 * share(same - exact, exact) + 5e-3
        if len(got) > 20:  # fewer rows have few roundings that could go the other way
            assert share(got - same, exact) < 0.8 * share(same - exact, exact)

    def test_relative_positions(self):
        weights = layer_weights(32, 64, 4, positions=9)
        hidden, bounds, longest = inputs_of(weights, [4, 9, 5])
        want = TorchLayer.cast(weights, torch.float64)(hidden.double(), bounds, longest)
        layer = Fp8Layer.cast(weights, torch.bfloat16)
        assert share(layer(hidden, bounds, longest) - want, want) < 0.08
        without = dataclasses.replace(layer, weights=dataclasses.replace(layer.weights, position_bias=None))
        assert share(without(hidden, bounds, longest) - want, want) > 0.1

    def test_a_sample_does_not_depend_on_the_others(self):
        layer = Fp8Layer.cast(layer_weights(48, 80, 3), torch.bfloat16)
        hidden, bounds, longest = inputs_of(layer.weights, [4, 3, 5])
        together = layer(hidden, bounds, longest)
        torch.testing.assert_close(layer(hidden[4:7], cu_seqlens_of([3]), 3), together[4:7], rtol=2e-2, atol=2e-2)

    @pytest.mark.parametrize("poison", [math.nan, math.inf])
    def test_what_is_not_finite_stays_in_its_sample(self, poison):
        layer = Fp8Layer.cast(layer_weights(32, 64, 4), torch.bfloat16)
        hidden, bounds, longest = inputs_of(layer.weights, [4, 3, 5])
        good = layer(hidden, bounds, longest)
        hidden[5, 3] = poison
        got = layer(hidden, bounds, longest)
        others = torch.tensor([*range(4), *range(7, 12)])
        assert got[4:7].isnan().all() and torch.equal(got[others], good[others])

    def test_all_layers_of_a_model(self):
        """Logits of all exits are as near to float64 as the roundings allow."""
        model, lengths = spread_model().double(), [1, 9, 20, 3, 30]
        texts = torch.randint(1, 97, (sum(lengths),)), cu_seqlens_of(lengths)
        loop = loop_of(model)
        in_fp8 = [Fp8Layer.cast(layer.weights, torch.bfloat16) for layer in loop.layers]
        rounding = loop.with_layers([RoundingLayer(layer.weights) for layer in loop.layers])
        exact, same = (logits_of_all_exits(model, one, *texts) for one in (loop, rounding))
        narrow = host.encoder(model, torch.bfloat16, "reference").get().with_layers(in_fp8)
        assert narrow.precision == "fp8"
        got = logits_of_all_exits(model, narrow, *texts)
        assert share(got - exact, exact) < 1.2 * share(same - exact, exact) + 1e-2
        assert share(got - same, exact) < share(same - exact, exact)

    def test_no_tokens_and_hidden_states_with_gaps(self):
        layer = Fp8Layer.cast(layer_weights(32, 64, 4), torch.bfloat16)
        hidden, bounds, longest = inputs_of(layer.weights, [4, 3])
        assert layer(hidden[:0], cu_seqlens_of([0, 0]), 5).shape == (0, 32)
        gaps = torch.cat([hidden, hidden], dim=1)[:, :32]
        assert torch.equal(layer(gaps, bounds, longest), layer(hidden, bounds, longest))


@pytest.mark.skipif(INTERPRETING, reason="about tensors, not the kernels")
def test_weights_take_a_byte_each_and_their_scales():
    weights = layer_weights(32, 64, 4)
    layer = Fp8Layer.cast(weights, torch.bfloat16)
    assert layer.dtype == torch.bfloat16 and layer.precision == "fp8"
    for name in PRODUCTS:
        weight = getattr(weights, f"{name}_weight")
        kept, scales = getattr(layer.weights, f"{name}_weight"), getattr(layer.scales, name)
        assert kept.dtype == torch.float8_e4m3fn and scales.shape == (len(weight), 1)
        assert share(kept.double() * scales.double() - weight, weight) < 0.04
        transposed = dataclasses.replace(weights, **{f"{name}_weight": weight.t().contiguous().t()})
        assert getattr(Fp8Layer.cast(transposed, torch.bfloat16).weights, f"{name}_weight").is_contiguous()


@pytest.mark.skipif(INTERPRETING, reason="interpreted kernels cannot be traced")
def test_torch_compile_sees_the_kernels_in_one_graph(monkeypatch):
    with FakeTensorMode():
        made = Fp8Layer.cast(layer_weights(64, 128, 2), torch.bfloat16)
        scales = fp8_layer.Scales(*map(on_cuda, made.scales))
        layer = Fp8Layer(on_cuda(made.weights), made.attention, scales=scales)
        graphs = compiled_graphs(layer, 64, monkeypatch)
    assert graphs
    for targets in graphs:
        assert targets.count("triton_kernel_wrapper_mutation") == 5
        assert sum("_scaled_mm" in target for target in targets) == 4


@pytest.mark.skipif(INTERPRETING, reason="about the choice, not the kernels")
class TestChoice:
    def encoder(self, weights, backend="triton"):
        """An encoder in FP8 on a device that need not exist. GraphedLoop needs a real one."""
        with FakeTensorMode(allow_non_fake_inputs=True), mock.patch.object(encoder, "GraphedLoop", LayerLoop):
            return prepare_encoder([on_cuda(weights), None, on_cuda(weights)], [], Fp8(), backend)

    @pytest.fixture(autouse=True)
    def here(self, monkeypatch):
        for name in ("triton", "cuda"):
            monkeypatch.setitem(backends.BACKENDS, name, backends.Backend(name, "cuda", lambda: None))
        monkeypatch.setattr(fp8_layer, "unavailable", lambda device: None)

    @pytest.mark.parametrize("backend", ["triton", "cuda"])
    def test_on_a_gpu_that_has_it(self, backend):
        made = self.encoder(layer_weights(32, 64, 4), backend)
        assert [type(layer).__name__ for layer in made.layers] == ["Fp8Layer", "NoLayer", "Fp8Layer"]
        assert made.dtype == torch.bfloat16 and made.precision == "fp8"

    @pytest.mark.parametrize(
        ("weights", "reason"),
        [
            (lambda: layer_weights(32, 64, 4, GELU_BY_TANH), "activations of the Triton kernels are"),
            (lambda: layer_weights(40, 64, 4), "take sizes that 16 divides, not 40 and 64"),
            (lambda: layer_weights(32, 72, 4), "take sizes that 16 divides, not 32 and 72"),
            (lambda: layer_weights(16, 8208, 4), "go to 8192, not 8208"),
        ],
    )
    def test_layers_that_it_does_not_serve(self, weights, reason):
        with pytest.raises(ValueError, match=f"{reason}.*take torch.bfloat16 instead"):
            self.encoder(weights())

    def test_a_deeper_layer_that_it_does_not_serve(self):
        weights = [layer_weights(32, 64, 4), layer_weights(32, 72, 4)]
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            mock.patch.object(encoder, "GraphedLoop", LayerLoop),
            pytest.raises(ValueError, match="not 32 and 72"),
        ):
            prepare_encoder([*map(on_cuda, weights)], [], Fp8(), "triton")

    def test_a_gpu_without_it(self, monkeypatch):
        monkeypatch.setattr(fp8_layer, "unavailable", lambda device: "A100 has no FP8")
        with pytest.raises(ValueError, match="'fp8' is not available for this model: A100 has no FP8"):
            self.encoder(layer_weights(32, 64, 4))

    def test_no_triton(self, monkeypatch):
        monkeypatch.setitem(backends.BACKENDS, "triton", backends.Backend("triton", "cuda", lambda: "not installed"))
        with pytest.raises(ValueError, match="not installed; take torch.bfloat16"):
            self.encoder(layer_weights(32, 64, 4), "cuda")

    @pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
    def test_a_model_on_a_cpu_is_refused_and_stays_as_it_was(self, backend):
        model = spread_model()
        with pytest.raises(ValueError, match="'fp8' is for GPUs from compute capability 9.0 on.*take torch.int8"):
            fastbert_kernels.patch(model, dtype="fp8", backend=backend)
        assert not fastbert_kernels.is_patched(model)

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"tanh_gelu": True}, "tanh_gelu goes with a floating point dtype or None, not 'fp8'"),
            ({"bfloat16_products": ["output"]}, "what dtype=torch.int8 leaves in bfloat16"),
            ({"probe": ()}, "probe is what dtype='auto' compares"),
        ],
    )
    def test_options_that_do_not_go_with_it(self, options, reason):
        with pytest.raises(ValueError, match=reason):
            fastbert_kernels.patch(spread_model(), dtype="fp8", **options)


@pytest.mark.skipif(INTERPRETING, reason="about the device")
class TestUnavailable:
    def reason(self, monkeypatch, capability, linear):
        fp8_layer.unavailable.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "this GPU")
        monkeypatch.setattr(fp8_layer.fp8_rows, "linear", linear)
        try:
            return fp8_layer.unavailable(torch.device("cpu"))  # whose product in FP8 is as good for a trial
        finally:
            fp8_layer.unavailable.cache_clear()

    def test_what_is_tried(self, monkeypatch):
        def fails(rows, weight):
            raise RuntimeError("Rowwise scaling needs sm_90\nand more lines")

        works = fp8_layer.fp8_rows.linear
        assert self.reason(monkeypatch, (9, 0), works) is None
        assert self.reason(monkeypatch, (8, 9), works).startswith("this GPU is older than Hopper")
        assert self.reason(monkeypatch, (9, 0), fails).endswith("cannot do them here: Rowwise scaling needs sm_90")

        def exchanged(rows, weight):
            return works(rows._replace(scales=weight.scales), weight._replace(scales=rows.scales))

        def by_tensor(rows, weight):
            return works(rows._replace(scales=rows.scales[:1].expand(len(rows.scales), 1).contiguous()), weight)

        for wrong in (exchanged, by_tensor):
            assert "are wrong here" in self.reason(monkeypatch, (9, 0), wrong)

    def test_no_memory_is_no_reason(self, monkeypatch):
        def is_full(rows, weight):
            raise torch.OutOfMemoryError("CUDA out of memory")

        with pytest.raises(torch.OutOfMemoryError):
            self.reason(monkeypatch, (9, 0), is_full)

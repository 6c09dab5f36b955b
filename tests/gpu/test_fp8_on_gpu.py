"""Products in FP8 on a GPU that has them: rounding, a layer, a patched model, and its graphs."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton.language", reason="triton is not installed")

import fastbert_kernels
from fastbert_kernels.backends import BACKENDS
from fastbert_kernels.engine import fp8_layer
from fastbert_kernels.engine.fp8_layer import Fp8Layer
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.layer_norm import LayerNorm
from fastbert_kernels.triton import elementwise, fp8_rows
from helpers.fp8 import RoundingLayer, layer_with_rounding, logits_of_all_exits, loop_of, share
from helpers.models import padded_batch, spread_model
from helpers.op_inputs import cu_seqlens_of, layer_weights

pytestmark = pytest.mark.gpu

LENGTHS = [1, 2, 3, 128, 5, 64, 63, 65] * 4


@pytest.fixture(autouse=True)
def needs_fp8():
    if reason := BACKENDS["triton"].unavailable() or fp8_layer.unavailable(torch.device("cuda", 0)):
        pytest.skip(reason)


def numbers_of(rows):
    return rows.values.double() * rows.scales.double()


@pytest.mark.parametrize("shape", [(1, 16), (5, 511), (1000, 768), (4099, 1001), (63, 3072), (9, 8191), (300_000, 64)])
def test_rows(poisoned_memory, shape):
    """The kernel rounds as PyTorch does, but for halves that a unit in the last place of a division decides."""
    rows = torch.randn(shape, device="cuda").bfloat16() * torch.logspace(-6, 6, shape[0], device="cuda")[:, None]
    got, want = fp8_rows.round_rows(rows), fp8_rows.round_weight(rows)
    torch.testing.assert_close(got.scales, want.scales, rtol=1e-6, atol=0)
    different = got.values.view(torch.uint8) != want.values.view(torch.uint8)
    assert float(different.float().mean()) < 1e-3
    assert share(numbers_of(got) - rows, rows) < 0.04


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_bias_activation(poisoned_memory, activation):
    rows, bias = torch.randn(1000, 3072, device="cuda").bfloat16(), torch.randn(3072, device="cuda").bfloat16()
    want = {"gelu": F.gelu, "relu": F.relu}[activation](rows.double() + bias.double())
    assert share(numbers_of(fp8_rows.bias_activation(rows, bias, activation)) - want, want) < 0.04


@pytest.mark.parametrize("kind", ["standard", "unbiased"])
def test_add_layer_norm(poisoned_memory, kind):
    rows, residual = torch.randn(2, 1000, 768, device="cuda").bfloat16()
    vectors = torch.randn(3, 768, device="cuda").bfloat16()
    want = elementwise.add_layer_norm_(rows.clone(), vectors[0], residual, LayerNorm(*vectors[1:], 1e-6, kind))
    got = fp8_rows.add_layer_norm_(rows, vectors[0], residual, LayerNorm(*vectors[1:], 1e-6, kind))
    torch.testing.assert_close(rows, want, rtol=1e-2, atol=1e-2)
    assert share(numbers_of(got) - want, want) < 0.04


@pytest.mark.parametrize("sizes", [(384, 1536, 12), (768, 3072, 12), (48, 80, 3)])
@pytest.mark.parametrize("lengths", [[1], [128] * 8, [1, 5, 0, 64, 100, 2, 63, 65, 129, 300, 512]])
def test_layer(poisoned_memory, sizes, lengths):
    """As near to float64 as its roundings allow."""
    weights = layer_weights(*sizes)
    hidden = torch.randn(sum(lengths), sizes[0]).bfloat16()
    bounds, longest = cu_seqlens_of(lengths), max(lengths)
    exact = TorchLayer.cast(weights, torch.float64)(hidden.double(), bounds, longest)
    same = layer_with_rounding(weights, hidden, bounds, longest)
    on_gpu = {name: part.cuda() for name, part in vars(weights).items() if isinstance(part, torch.Tensor)}
    layer = Fp8Layer.cast(dataclasses.replace(weights, **on_gpu), torch.bfloat16)
    got = layer(hidden.cuda(), bounds.cuda(), longest).cpu()
    assert share(got - exact, exact) <= 1.2 * share(same - exact, exact) + 5e-3


def test_what_is_not_finite_is_told():
    rows, weight = torch.randn(3, 64, device="cuda"), fp8_rows.round_weight(torch.randn(32, 64, device="cuda"))
    rows[1, 7] = float("nan")
    rows[2, 7] = float("inf")
    got = fp8_rows.linear(fp8_rows.round_rows(rows), weight)
    assert got.isnan().all(dim=1).tolist() == [False, True, True]


@pytest.fixture
def on_gpu():
    """A model, and a batch."""
    return spread_model().cuda(), {name: tensor.cuda() for name, tensor in padded_batch(LENGTHS).items()}


@pytest.mark.parametrize("warm_up", [(), [(2048, 32, 128)]])
def test_a_patched_model_does_what_its_layers_do(on_gpu, warm_up):
    """Logits of all exits are as near to float64 as the roundings allow; a call with a Speed stops at the first exit
    below it."""
    model, batch = on_gpu
    patched = fastbert_kernels.patch(copy.deepcopy(model), dtype="fp8", warm_up=warm_up)
    assert fastbert_kernels.patch_info(patched)["precision"] == "fp8"
    wide, valid = model.double().cpu(), batch["attention_mask"].bool().cpu()
    texts = batch["input_ids"].cpu()[valid], cu_seqlens_of(LENGTHS)
    loop = loop_of(wide)
    rounding = loop.with_layers([RoundingLayer(layer.weights) for layer in loop.layers])
    with torch.inference_mode():
        exact, same = (logits_of_all_exits(wide, one, *texts) for one in (loop, rounding))
        got = patched(**batch, output_all_exits=True)
        assert share(got.all_logits.cpu() - exact, exact) < 1.3 * share(same - exact, exact) + 1e-2
        for speed in (0.0, 0.3, 0.8, 1.0):
            left, every = patched(**batch, speed=speed).exit_layer, got.all_uncertainty
            near = ((every[:, :-1] - speed).abs() < 0.02).any(dim=1)
            below = torch.cat([every[:, :-1] < speed, torch.ones_like(every[:, :1], dtype=torch.bool)], dim=1)
            assert (~near).any() and torch.equal(left[~near], below.int().argmax(dim=1)[~near] + 1)


def test_on_a_cpu_the_models_own_forward_answers(on_gpu):
    model, batch = on_gpu
    patched = fastbert_kernels.patch(copy.deepcopy(model), dtype="fp8").cpu()
    here = {name: tensor.cpu() for name, tensor in batch.items()}
    with torch.inference_mode(), pytest.warns(RuntimeWarning, match="'fp8' is for GPUs"):
        got = patched(**here)
    torch.testing.assert_close(got.logits, model.cpu()(**here).logits)

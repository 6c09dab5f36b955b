"""The encoder layer on a CPU: against float64, dtype by dtype, on odd shapes and bad values."""

from __future__ import annotations

import dataclasses

import hypothesis
import pytest
import torch
from hypothesis import strategies

from fastbert_kernels.engine.dtypes import PRODUCTS, MixedInt8, hidden_dtype
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.layer_norm import LAYER_NORMS
from helpers.accuracy import assert_encoder_layer_is_accurate, packed_layer
from helpers.op_inputs import cu_seqlens_of, layer_weights

DTYPES = [torch.float32, torch.bfloat16, torch.int8]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("hidden_size", "intermediate_size", "heads", "activation"),
    [(768, 3072, 12, "gelu"), (312, 1200, 12, "gelu"), (40, 90, 5, "relu"), (128, 130, 1, "gelu"), (7, 5, 7, "gelu")],
)
def test_accuracy(poisoned_memory, dtype, hidden_size, intermediate_size, heads, activation):
    weights = layer_weights(hidden_size, intermediate_size, heads, activation)
    assert_encoder_layer_is_accurate(weights, [1, 5, 64, 100, 2, 63, 65, 129], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden_size", "intermediate_size", "heads"), [(384, 1536, 6), (40, 90, 5), (7, 5, 7)])
def test_accuracy_with_the_other_layer_norm(poisoned_memory, dtype, hidden_size, intermediate_size, heads):
    weights = layer_weights(hidden_size, intermediate_size, heads, layer_norm="unbiased")
    assert_encoder_layer_is_accurate(weights, [1, 5, 64, 100, 2, 63, 65, 129], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden_size", "intermediate_size", "heads"), [(384, 96, 6), (40, 90, 5), (7, 5, 7)])
@pytest.mark.parametrize("positions", [129, 200])
def test_accuracy_with_relative_positions(poisoned_memory, dtype, hidden_size, intermediate_size, heads, positions):
    weights = layer_weights(hidden_size, intermediate_size, heads, positions=positions)
    assert_encoder_layer_is_accurate(weights, [1, 5, 64, 100, 2, 63, 65, 129], dtype)


def test_samples_longer_than_relative_positions_are_refused():
    layer = packed_layer(layer_weights(48, 96, 4, positions=7), torch.float32)
    assert layer(torch.randn(9, 48), cu_seqlens_of([7, 2])).isfinite().all()
    with pytest.raises(ValueError, match="a sample of 8 tokens is longer than the 7 positions"):
        layer(torch.randn(9, 48), cu_seqlens_of([1, 8]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [[1], [13], [512], [513, 1], [30] * 100, [700, 3, 800, 2, 900]])
def test_batches_of_all_kinds(poisoned_memory, dtype, lengths):
    """Fewer tokens than a tile has rows, one thread's worth, and more than one chunk."""
    assert_encoder_layer_is_accurate(layer_weights(48, 96, 4), lengths, dtype)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    lengths=strategies.lists(strategies.integers(1, 70), min_size=1, max_size=12),
    head_size=strategies.integers(1, 40),
    heads=strategies.integers(1, 4),
    intermediate_size=strategies.integers(1, 150),
    dtype=strategies.sampled_from(DTYPES),
    layer_norm=strategies.sampled_from(list(LAYER_NORMS)),
    seed=strategies.integers(0, 100),
)
def test_any_shape(lengths, head_size, heads, intermediate_size, dtype, layer_norm, seed):
    hypothesis.assume(head_size * heads > 1 or layer_norm == "standard")
    torch.manual_seed(seed)
    weights = layer_weights(head_size * heads, intermediate_size, heads, layer_norm=layer_norm)
    # Where all rows of a LayerNorm are nearly constant, it blows any rounding up.
    weights = dataclasses.replace(weights, layer_norm_eps=0.1)
    assert_encoder_layer_is_accurate(weights, lengths, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_without_tokens_and_empty_batches(dtype):
    layer = packed_layer(layer_weights(48, 96, 4), dtype)
    hidden = torch.randn(12, 48).to(hidden_dtype(dtype, torch.float32))
    want = layer(hidden, cu_seqlens_of([5, 7]))
    assert torch.equal(layer(hidden, cu_seqlens_of([0, 5, 0, 0, 7, 0])), want)
    for lengths in ([], [0], [0, 0]):
        assert layer(hidden[:0], cu_seqlens_of(lengths)).shape == (0, 48)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_sample_leaves_its_neighbours_alone(poisoned_memory, dtype, bad):
    layer = packed_layer(layer_weights(48, 96, 4), dtype)
    hidden = torch.randn(30, 48).to(hidden_dtype(dtype, torch.float32))
    bounds = cu_seqlens_of([9, 11, 10])
    want = layer(hidden, bounds)
    hidden[12, 5] = bad
    got = layer(hidden, bounds)
    assert torch.equal(got[:9], want[:9]) and torch.equal(got[20:], want[20:])
    assert got[9:20].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_bad_weights_are_never_answered_by_numbers(poisoned_memory, dtype, activation):
    """In 8 bits there is no NaN, so a scale has to be one."""
    names = [f"{product}_{part}" for product in PRODUCTS for part in ("weight", "bias")]
    for name in [*names, "attention_norm_weight", "output_norm_bias"]:
        weights = layer_weights(48, 96, 4, activation)
        getattr(weights, name).flatten()[-1] = float("nan")
        hidden = torch.randn(12, 48).to(hidden_dtype(dtype, torch.float32))
        got = packed_layer(weights, dtype)(hidden, cu_seqlens_of([5, 7]))
        want = TorchLayer(weights)(hidden.double(), cu_seqlens_of([5, 7]), 7)
        assert torch.equal(got.isnan(), want.isnan()) and bool(got.isnan().any()), name


@pytest.mark.parametrize("activation", ["gelu", "relu"])  # where ReLU would cut an infinity off, it is told of too
@pytest.mark.parametrize("bad", [float("inf"), float("-inf")])
@pytest.mark.parametrize("product", PRODUCTS)
def test_infinite_weights_are_not_finite_in_8_bits(poisoned_memory, product, bad, activation):
    weights = layer_weights(48, 96, 4, activation)
    getattr(weights, f"{product}_weight")[3, 5] = bad
    got = packed_layer(weights, torch.int8)(torch.randn(12, 48).bfloat16(), cu_seqlens_of([5, 7]))
    assert not got.isfinite().all(dim=1).any()


def test_the_same_bits_for_any_company():
    """A sample's result does not depend on what else is in the batch, so that batching never changes a decision."""
    layer = packed_layer(layer_weights(64, 128, 4), torch.bfloat16)
    hidden = torch.randn(300, 64).bfloat16()
    together = layer(hidden, cu_seqlens_of([100, 7, 193]))
    assert torch.equal(layer(hidden[100:107], cu_seqlens_of([7])), together[100:107])


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_in_bfloat16_beside_int8_ones(name):
    """Weights of which one is far larger than the others are nothing in 8 bits, and each product can be spared them."""
    weights, bounds = layer_weights(48, 96, 4), cu_seqlens_of([5, 7])
    getattr(weights, f"{name}_weight")[:, 0] = 16.0
    hidden = torch.randn(12, 48).bfloat16()
    # It meets a 0 where it would drown the others in softmax or activation.
    hidden[:, 0] = weights.attention_norm_weight[0] = weights.attention_norm_bias[0] = 0.0
    want = TorchLayer(weights)(hidden.double(), bounds, 7)

    def error(dtype):
        return (packed_layer(weights, dtype)(hidden, bounds) - want).abs().mean()

    others = tuple(other for other in PRODUCTS if other != name)
    assert error(MixedInt8((name,))) < error(torch.int8) / 3 < error(MixedInt8(others))


def test_non_contiguous_rows():
    layer = packed_layer(layer_weights(48, 96, 4), torch.float32)
    hidden = torch.randn(12, 48)
    strided = hidden.t().contiguous().t()
    assert not strided.is_contiguous()
    assert torch.equal(layer(strided, cu_seqlens_of([5, 7])), layer(hidden, cu_seqlens_of([5, 7])))

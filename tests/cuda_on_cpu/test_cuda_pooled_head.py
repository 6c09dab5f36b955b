"""The CUDA pooled exit head, run on the CPU, against float64."""

from __future__ import annotations

import functools
import itertools
import math

import head_cases
import pytest
import torch
from cpu_library import HeadOutputs
from head_cases import BFLOAT16, DTYPES, FLOAT16, FLOAT32, LENGTHS, SHORT_LENGTHS
from hypothesis import given, settings
from hypothesis import strategies as st

POOLINGS = ["first", "mean", "max"]
ACTIVATIONS = {
    "identity": torch.clone,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": functools.partial(torch.nn.functional.gelu, approximate="none"),
}
Layers = list[tuple[torch.Tensor, torch.Tensor]]


def pooled_inputs(lengths: list[int], dtype: torch.dtype, sizes: list[int], seed: int = 0):
    """hidden [T, H], cu_seqlens and the layers between `sizes` H, .., N."""
    generator = torch.Generator().manual_seed(seed)
    layers: Layers = []
    for size, rows in itertools.pairwise(sizes):
        weight = (torch.randn(rows, size, generator=generator) * 2 * size**-0.5).to(dtype)
        layers.append((weight, torch.randn(rows, generator=generator) * 0.2))
    hidden = torch.randn(sum(lengths), sizes[0], generator=generator).to(dtype)
    return hidden, head_cases.prefix_sums(lengths), layers


def pooled_reference(hidden, cu_seqlens, layers: Layers, pooling: str, activation: str, dtype) -> torch.Tensor:
    vectors = []
    for begin, end in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        rows = hidden[begin:end].to(dtype)
        if begin == end:
            vectors.append(torch.full((hidden.shape[1],), math.nan, dtype=dtype))
        else:
            vectors.append(rows[0] if pooling == "first" else rows.mean(0) if pooling == "mean" else rows.amax(0))
    x = torch.stack(vectors) if vectors else torch.empty(0, hidden.shape[1], dtype=dtype)
    for i, (weight, bias) in enumerate(layers):
        x = torch.nn.functional.linear(x, weight.to(dtype), bias.to(dtype))
        x = x if i == len(layers) - 1 else ACTIVATIONS[activation](x)
    return x


def check_pooled(library, lengths: list[int], dtype, sizes: list[int], pooling: str, activation: str, seed: int = 0):
    hidden, cu_seqlens, layers = pooled_inputs(lengths, dtype, sizes, seed)
    decision = head_cases.random_decision(len(lengths))
    before = library.launches()
    outputs = library.pooled_exit_head(hidden, cu_seqlens, layers, pooling, activation, decision)
    assert library.launches() - before == (1 if lengths else 0)
    # The kernel adds in float32 whatever the inputs, so its rival is plain PyTorch in float32 on the same numbers.
    logits_in = functools.partial(pooled_reference, hidden, cu_seqlens, layers, pooling, activation)
    head_cases.check_outputs(outputs, logits_in, FLOAT32, decision)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_length(library, dtype, pooling):
    check_pooled(library, LENGTHS, dtype, [136, 64, 3], pooling, "tanh")


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [[72, 2], [72, 40, 5], [72, 40, 136, 3]])
def test_short(library, pooling, activation, sizes):
    for dtype in DTYPES:
        check_pooled(library, SHORT_LENGTHS, dtype, sizes, pooling, activation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes",
    [[8, 2], [8, 8, 8, 33], [768, 768, 2], [1024, 1000], [1024, 1024, 1024, 3], [2056, 16, 1031], [24, 2048, 5]],
)
def test_every_size(library, dtype, sizes):
    check_pooled(library, [3, 0, 18], dtype, sizes, "mean", "gelu")


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 9, 16, 17, 33])
@pytest.mark.parametrize("multiprocessors", [1, 2, 4])
def test_every_group_short(library, batch, multiprocessors):
    """1, 2, 4 and 8 samples a block, and groups that are not full."""
    library.configure(multiprocessors=multiprocessors)
    lengths = [(7 * i) % 5 for i in range(batch)]
    check_pooled(library, lengths, BFLOAT16, [40, 16, 3], "mean", "tanh")
    check_pooled(library, lengths, BFLOAT16, [40, 16, 3], "first", "tanh")


def test_groups_shrink_to_fit_shared_memory(library):
    library.configure(multiprocessors=1, capability=80)
    check_pooled(library, [1] * 8, FLOAT16, [8, 8192], "first", "tanh")


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_any_order_of_warps_short(library, seed):
    library.configure(seed=seed, multiprocessors=2)
    for pooling in POOLINGS:
        check_pooled(library, [9, 1, 40, 3, 0], BFLOAT16, [104, 64, 24, 40], pooling, "relu")


def test_empty_batch(library):
    check_pooled(library, [], BFLOAT16, [64, 2], "mean", "tanh")


def run(library, hidden, cu_seqlens, layers, pooling, samples) -> HeadOutputs:
    decision = head_cases.random_decision(samples)
    return library.pooled_exit_head(hidden, cu_seqlens, layers, pooling, "relu", decision)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_sample(library, pooling, value):
    """In samples of the same block; a NaN must win the maximum whatever comes after it."""
    library.configure(multiprocessors=1)
    hidden, cu_seqlens, layers = pooled_inputs([4, 30, 5], FLOAT32, [64, 64, 3])
    layers[0][0][:, 5] = 0.5  # so that infinity does not become NaN in the first layer, but logits of both signs
    clean = run(library, hidden, cu_seqlens, layers, pooling, 3)
    hidden[4, 5] = value
    outputs = run(library, hidden, cu_seqlens, layers, pooling, 3)
    if math.isnan(value):
        assert outputs.logits[1].isnan().all()
    assert outputs.uncertainty[1].isnan() and outputs.history[1].tolist() == [-1, 0] and outputs.keep[1] == 1
    head_cases.assert_equal(outputs, clean, [0, 2])


def test_it_takes_every_listed_shape(library):
    for dtype, hidden_size, labels in itertools.product(DTYPES, (8, 768, 1024, 8192), (2, 1024, 8192)):
        for between in ([], [768], [1024, 8]):
            assert library.pooled_exit_head_unsupported(dtype, [hidden_size, *between, labels]) is None


def test_it_says_what_it_does_not_take(library):
    for dtype, sizes, word in [
        (torch.int8, [64, 2], "float16"),
        (FLOAT32, [64], "layers"),
        (FLOAT32, [64, 8, 8, 8, 2], "layers"),
        (FLOAT32, [63, 2], "multiples of 8"),
        (FLOAT32, [64, 12, 2], "multiples of 8"),
        (FLOAT32, [64, 0], "labels"),
        (FLOAT32, [64, 8193], "labels"),
    ]:
        assert word in library.pooled_exit_head_unsupported(dtype, sizes)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    widths=st.lists(st.integers(1, 30).map(lambda n: 8 * n), min_size=1, max_size=3),
    labels=st.integers(2, 70),
    pooling=st.sampled_from(POOLINGS),
    activation=st.sampled_from(list(ACTIVATIONS)),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 9),
)
def test_any_batch(built_library, lengths, widths, labels, pooling, activation, dtype, seed):
    built_library.configure(seed=seed)
    check_pooled(built_library, lengths, dtype, [*widths, labels], pooling, activation, seed)


def test_the_device_is_restored(library):
    hidden, cu_seqlens, layers = pooled_inputs([3], FLOAT32, [8, 2])
    library.pooled_exit_head(
        hidden, cu_seqlens, layers, "max", "tanh", head_cases.random_decision(1), device=library.new_device()
    )
    assert library.device() == 0

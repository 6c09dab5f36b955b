"""The CUDA exit head, run on the CPU, against float64: layouts, masks, barriers, arithmetic, without a GPU."""

from __future__ import annotations

import functools
import itertools

import cpu_library
import head_cases
import pytest
import torch
from cpu_library import Decision
from head_cases import BFLOAT16, DTYPES, FLOAT16, FLOAT32, SHORT_LENGTHS

from helpers.sanitizers import SANITIZED


def fold_to(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """query and value in `dtype`, in which they are exact."""
    return weights | {name: weights[name].to(dtype) for name in ("query", "value")}


def check_head(library, lengths: list[int], dtype: torch.dtype, *sizes: int, fold=FLOAT32, mlp="tanh") -> None:
    """`sizes` are the hidden size, the narrow size, the heads and the labels."""
    hidden, cu_seqlens, weights = head_cases.head_inputs(lengths, dtype, *sizes)
    decision = head_cases.random_decision(len(lengths))
    before = library.launches()
    outputs = library.attentive_head(hidden, cu_seqlens, fold_to(weights, fold), decision, ("tanh", mlp))
    assert library.launches() - before == (1 if lengths else 0)
    logits_in = functools.partial(head_cases.head_reference, hidden, cu_seqlens, weights, activations=("tanh", mlp))
    floor = head_cases.FLOOR_OF_APPROXIMATED_TANH if dtype == BFLOAT16 else head_cases.FLOOR
    head_cases.check_outputs(outputs, logits_in, dtype, decision, floor)


@pytest.mark.proof
class TestEveryShape(head_cases.EveryShape):
    check = staticmethod(check_head)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("narrow", [64, 128, 256])
def test_short(library, dtype, narrow):
    check_head(library, SHORT_LENGTHS, dtype, 72, narrow, 2, 3)


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16])
@pytest.mark.parametrize("narrow", [64, 128, 256])
@pytest.mark.parametrize("heads", [8] if SANITIZED else [1, 3, 8])
def test_fold_in_16_bits_short(library, dtype, narrow, heads):
    """query and value are exact in 16 bits here, so the answer is that of the same numbers in float32, to the bit."""
    hidden, cu_seqlens, weights = head_cases.head_inputs([140, 0, 6], dtype, 72, narrow, heads, 3)
    decision = head_cases.random_decision(3)
    wide = library.attentive_head(hidden, cu_seqlens, weights, decision)
    half = library.attentive_head(hidden, cu_seqlens, fold_to(weights, dtype), decision)
    torch.testing.assert_close(half.logits, wide.logits, rtol=0, atol=1e-5, equal_nan=True)
    assert torch.equal(half.history, wide.history)
    check_head(library, [140, 0, 6], dtype, 72, narrow, heads, 3, fold=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mlp_without_activation_short(library, dtype):
    check_head(library, [9, 70], dtype, 72, 128, 2, 3, mlp="identity")


@pytest.mark.parametrize("narrow", ["tanh", "identity"])
def test_small_weights_anywhere_in_memory_short(library, narrow):
    """Only hidden, projection_weight, query and value are promised to lie on 16 bytes; sanitizers see it."""
    hidden, cu_seqlens, weights = head_cases.head_inputs([9, 3], FLOAT32, 72, 128, 2, 3)
    decision = head_cases.random_decision(2)
    wanted = library.attentive_head(hidden, cu_seqlens, weights, decision, (narrow, "tanh"))
    for name in set(weights) - {"projection_weight", "query", "value"}:
        storage = torch.empty(weights[name].numel() + 1)
        storage[1:] = weights[name].flatten()
        weights[name] = storage[1:].view(weights[name].shape)
    head_cases.assert_equal(library.attentive_head(hidden, cu_seqlens, weights, decision, (narrow, "tanh")), wanted)


@pytest.mark.parametrize("seed", [1] if SANITIZED else [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_any_order_of_warps_short(library, dtype, seed):
    hidden, cu_seqlens, weights = head_cases.head_inputs([129, 1, 40], dtype, 264, 128, 3, 40)
    weights = fold_to(weights, dtype)
    decision = head_cases.random_decision(3)
    wanted = library.attentive_head(hidden, cu_seqlens, weights, decision)
    library.configure(seed=seed)
    head_cases.assert_equal(library.attentive_head(hidden, cu_seqlens, weights, decision), wanted)


@pytest.mark.parametrize("narrow", [64, 128, 256])
@pytest.mark.parametrize(("capability", "multiprocessors", "heads"), [(80, 1, 8), (80, 64, 1), (90, 1, 8), (90, 64, 1)])
def test_any_number_of_stages(library, narrow, capability, multiprocessors, heads):
    library.configure(multiprocessors=multiprocessors, capability=capability)
    check_head(library, [140, 20], BFLOAT16, 520, narrow, heads, 2, fold=BFLOAT16)


@pytest.mark.parametrize("narrow", [64, 128, 256])
def test_matrix_loads_do_not_conflict(library, narrow):
    check_head(library, [70, 33], FLOAT16, 96, narrow, 2, 2)
    assert library.bank_conflicts() == 0 and library.matrix_products() > 0


def test_two_blocks_fit_a_multiprocessor_when_there_are_enough_samples(library):
    library.configure(multiprocessors=2, capability=90)
    check_head(library, [4, 5, 6], BFLOAT16, 768, 128, 2, 2)
    reserved = 1024
    assert 2 * (library.shared_bytes() + reserved) <= cpu_library.SHARED_MEMORY[90][1]


def test_a_large_batch_takes_no_shared_memory_from_recorded_small_ones(library):
    """The limit is the kernel's, and a graph may be made from a launch that was recorded before."""
    library.configure(multiprocessors=2, capability=90)
    check_head(library, [4, 5], FLOAT32, 768, 128, 2, 2)
    recorded = library.shared_bytes()
    check_head(library, [4, 5, 6], FLOAT32, 768, 128, 2, 2)
    assert library.shared_bytes() < recorded <= library.granted_shared_bytes()


def test_empty_batch(library):
    check_head(library, [], BFLOAT16, 64, 128, 2, 2)


def test_nan_and_infinity_stay_in_their_sample(library):
    hidden, cu_seqlens, weights = head_cases.head_inputs([40, 130, 70, 20, 9], BFLOAT16, 64, 128, 2, 3)
    decision = head_cases.random_decision(5)
    clean = library.attentive_head(hidden, cu_seqlens, weights, decision)
    hidden[40 + 129, 5] = float("nan")
    hidden[40 + 130 + 3, 7] = float("inf")
    outputs = library.attentive_head(hidden, cu_seqlens, weights, decision)
    assert outputs.logits[1].isnan().all() and outputs.uncertainty[1].isnan() and outputs.keep[1] == 1
    assert outputs.history[1].tolist() == [-1, 0]
    exact = head_cases.head_reference(hidden, cu_seqlens, weights, torch.float64)
    assert head_cases.error(outputs.logits[2], exact[2]) < 0.05  # tanh takes the infinity
    head_cases.assert_equal(outputs, clean, [0, 3, 4])


def test_beyond_2_31_elements(library):
    hidden, cu_seqlens, weights = head_cases.head_inputs([9], BFLOAT16, 1024, 64, 1, 2)
    decision = head_cases.random_decision(1)
    wanted = library.attentive_head(hidden, cu_seqlens, weights, decision)
    far = 2**21 + 5  # memory that nothing touches is only addresses
    distant = torch.empty(far + 9, 1024, dtype=BFLOAT16)
    distant[far:] = hidden
    head_cases.assert_equal(library.attentive_head(distant, cu_seqlens + far, weights, decision), wanted)


def test_it_takes_every_listed_shape(library):
    sizes = itertools.product((8, 136, 768, 1024, 4096), (64, 128, 256), range(1, 9), (2, 1024, 8192))
    for hidden_size, narrow, heads, labels in sizes:
        shape = {"hidden_size": hidden_size, "narrow_size": narrow, "num_heads": heads, "num_labels": labels}
        for dtype in DTYPES:
            assert library.attentive_head_unsupported(dtype, **shape) is None
            assert library.attentive_head_unsupported(dtype, fold_dtype=dtype, activation="identity", **shape) is None


def test_it_says_what_it_does_not_take(library):
    assert "float16" in library.attentive_head_unsupported(torch.int8)
    assert "dtype of hidden" in library.attentive_head_unsupported(BFLOAT16, fold_dtype=FLOAT16)
    assert "tanh" in library.attentive_head_unsupported(BFLOAT16, activation="relu")
    outside = {"hidden_size": (0, 100), "narrow_size": (32, 96), "num_heads": (0, 9), "num_labels": (0, 8193)}
    for name, size in [(name, size) for name, sizes in outside.items() for size in sizes]:
        reason = library.attentive_head_unsupported(BFLOAT16, **{name: size})
        assert reason is not None and name.split("_")[1].rstrip("s") in reason


def test_the_device_is_restored(library):
    hidden, cu_seqlens, weights = head_cases.head_inputs([3], FLOAT32, 64, 64, 1, 2)
    library.attentive_head(hidden, cu_seqlens, weights, Decision(torch.rand(1)), device=library.new_device())
    assert library.device() == 0

"""The CUDA exit head without an activation in the narrow layer: both kernels that do it, against float64."""

from __future__ import annotations

import functools

import head_cases
import pytest
import torch
from head_cases import BFLOAT16, DTYPES, FLOAT16, FLOAT32, SHORT_LENGTHS

LONG = 400  # tokens a sample from which 16-bit batches take the kernel that projects no tokens


def check_linear(library, lengths: list[int], dtype: torch.dtype, *sizes: int, project=False, fold=FLOAT32, mlp="tanh"):
    """`sizes` are the hidden size, the narrow size, the heads and the labels; `project` wants the matrix units' kernel.

    Which kernel runs depends on the rows of hidden, so more of them, which belong to no sample, choose it.
    """
    hidden, cu_seqlens, weights = head_cases.head_inputs(lengths, dtype, *sizes)
    decision = head_cases.random_decision(len(lengths))
    activations = ("identity", mlp)
    rows = 0 if project else max(0, LONG * len(lengths) - len(hidden))
    padded = torch.cat([hidden, torch.full((rows, hidden.shape[1]), float("nan"), dtype=dtype)])
    folded = weights | {name: weights[name].to(fold) for name in ("query", "value")}
    before = library.launches()
    outputs = library.attentive_head(padded, cu_seqlens, folded, decision, activations)
    assert library.launches() - before == 1
    assert (library.matrix_products() > 0) == project
    # Without a projection everything is float32, so the rival is plain PyTorch in float32 on the same numbers.
    logits_in = functools.partial(head_cases.head_reference, hidden, cu_seqlens, weights, activations=activations)
    head_cases.check_outputs(outputs, logits_in, FLOAT32, decision)


@pytest.mark.proof
class TestEveryShape(head_cases.EveryShape):
    check = staticmethod(check_linear)


@pytest.mark.parametrize("dtype", DTYPES)
def test_short(library, dtype):
    check_linear(library, SHORT_LENGTHS, dtype, 72, 128, 3, 3)


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16])
def test_fold_in_16_bits_short(library, dtype):
    check_linear(library, SHORT_LENGTHS, dtype, 72, 128, 2, 3, fold=dtype, mlp="identity")


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16])
@pytest.mark.parametrize("narrow", [64, 128, 256])
def test_batches_that_are_projected_short(library, dtype, narrow):
    check_linear(library, [130, 0, 5], dtype, 136, narrow, 2, 3, project=True, mlp="identity")


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_any_order_of_warps_short(library, dtype, seed):
    library.configure(seed=seed)
    check_linear(library, [70, 1, 40], dtype, 264, 64, 3, 40)


def test_what_does_not_fit_shared_memory_is_projected(library):
    library.configure(capability=80)
    check_linear(library, [3], FLOAT16, 8192, 64, 1, 2, project=True)


def test_nan_and_infinity_stay_in_their_sample(library):
    hidden, cu_seqlens, weights = head_cases.head_inputs([40, 30, 20, 9], FLOAT32, 64, 128, 2, 3)
    decision = head_cases.random_decision(4)
    clean = library.attentive_head(hidden, cu_seqlens, weights, decision, ("identity", "tanh"))
    hidden[40 + 29, 5] = float("nan")
    hidden[40 + 30 + 3, 7] = float("inf")
    outputs = library.attentive_head(hidden, cu_seqlens, weights, decision, ("identity", "tanh"))
    assert outputs.logits[1:3].isnan().all() and outputs.history[1:3].tolist() == [[-1, 0]] * 2
    assert outputs.keep[1:3].tolist() == [1, 1]
    head_cases.assert_equal(outputs, clean, [0, 3])

"""LayerNorm: the kind with unbiased deviation and epsilon outside the root, in plain PyTorch and in the compiled rows
of `embed`, against its formula in float64; and what rounding may not do to either kind."""

from __future__ import annotations

import pytest
import torch

from fastbert_kernels import ops
from fastbert_kernels.layer_norm import unbiased_layer_norm
from helpers.accuracy import FLOOR, assert_accurate
from helpers.rounding import rivals

EPSILON = 1e-6


def formula(x, weight, bias):
    return weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + EPSILON) + bias


def rows_of(kind, width):
    rows = torch.randn(9, width)
    rows[:, 0] += 1  # two elements may be nearly equal
    return {
        "ordinary": rows,
        "equal": torch.tensor([0.1, -3.0, 1e-9, 0.0, 1 / 3, 7e8, 1e30, 0.7, -0.3])[:, None].expand(9, width).clone(),
        "far from zero": rows + 3000,
        "nearly equal": 100 + 1e-4 * rows,
        "about the size of epsilon": 1e-6 * rows,
        "tiny": 1e-22 * rows,
        "huge": 1e30 * rows,
    }[kind]


def embedded(rows, weight, bias, dtype, layer_norm="unbiased"):
    """LayerNorm of float32 rows by the compiled kernel, as the sum of one row with two of zeros."""
    ids, zeros = torch.arange(len(rows)), torch.zeros(1, rows.shape[1])
    return ops.embed(
        ids,
        torch.zeros_like(ids),
        None,
        rows,
        zeros,
        zeros,
        weight,
        bias,
        layer_norm_eps=EPSILON,
        dtype=dtype,
        layer_norm=layer_norm,
    )


@pytest.mark.parametrize("width", [2, 3, 16, 33, 768, 1031])
@pytest.mark.parametrize(
    "kind", ["ordinary", "equal", "far from zero", "nearly equal", "about the size of epsilon", "tiny", "huge"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_as_accurate_as_its_formula_in_plain_pytorch(poisoned_memory, dtype, kind, width):
    rows, weight, bias = rows_of(kind, width), 1 + 0.3 * torch.randn(width), 0.1 * torch.randn(width)
    if dtype == torch.float16 and not rows.half().isfinite().all():
        pytest.skip("not numbers of float16")
    cast = [x.to(dtype) for x in (rows, weight, bias)]
    want = formula(*(x.double() for x in cast))
    theirs, least = rivals(lambda: formula(*cast), want.numel()), FLOOR[dtype] * want.abs().max()
    assert_accurate(unbiased_layer_norm(*cast, EPSILON), want, theirs, least)
    if dtype != torch.float16:
        got = embedded(*(x.float() for x in cast), dtype)
        assert got.dtype == dtype
        assert_accurate(got, want, theirs, least)


@pytest.mark.parametrize("layer_norm", ["standard", "unbiased"])
@pytest.mark.parametrize("width", [2, 3, 768])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equal_elements_only_the_bias_is_left(dtype, width, layer_norm):
    weight, bias = torch.randn(width), torch.randn(width)
    got = embedded(rows_of("equal", width), weight, bias, dtype, layer_norm)
    assert torch.equal(got, bias.to(dtype).expand(9, -1))


@pytest.mark.parametrize("width", [2, 3, 48, 768])
@pytest.mark.parametrize("spread", [1e-7, 1e-5, 1.0, 1e30])
def test_the_standard_one_of_elements_that_differ_by_little_or_much(width, spread):
    """At 1e-7 they differ in the last bit, which a rounded mean would swallow; at 1e30 their squares are infinite."""
    rows, weight, bias = 100 * (1 + spread * torch.rand(9, width)), torch.randn(width), torch.randn(width)
    exact = torch.nn.functional.layer_norm(rows.double(), (width,), weight.double(), bias.double(), EPSILON)
    got = embedded(rows, weight, bias, torch.float32, "standard")
    assert ((got - (exact if spread < 1e30 else bias)).abs() <= 1e-3).all()


def test_it_is_another_one_than_the_standard():
    rows, weight, bias = torch.randn(4, 8), torch.ones(8), torch.zeros(8)
    standard = torch.nn.functional.layer_norm(rows, (8,), eps=EPSILON)
    assert (embedded(rows, weight, bias, torch.float32) - standard).abs().max() > 0.05
    assert (unbiased_layer_norm(rows, weight, bias, EPSILON) * (8 / 7) ** 0.5 - standard).abs().max() < 1e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_row(bad):
    rows, weight, bias = torch.randn(5, 40), torch.randn(40), torch.randn(40)
    want = embedded(rows, weight, bias, torch.float32)
    rows[2, 7] = bad
    got = embedded(rows, weight, bias, torch.float32)
    assert got[2].isnan().all() and torch.equal(got[[0, 1, 3, 4]], want[[0, 1, 3, 4]])


def test_rows_of_one_element_have_no_deviation():
    with pytest.raises(ValueError, match="divides by H - 1 and needs H >= 2, not 1"):
        embedded(torch.ones(3, 1), torch.ones(1), torch.ones(1), torch.float32)

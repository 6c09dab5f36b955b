"""Products by tiles: against float64, and bit for bit against vectors, on all counts of rows and odd depths."""

from __future__ import annotations

import pytest
import torch
from tile_kernels import OPERANDS, at_the_end_of_memory
from torch.nn import functional as F

from helpers.sanitizers import SANITIZED

pytestmark = pytest.mark.proof  # the first compiles the kernels
DTYPES = pytest.mark.parametrize("dtype", list(OPERANDS))


def inputs(kernels, dtype, rows, depth, outputs):
    matrix = kernels.pack(torch.randn(outputs, depth) / depth**0.5, torch.randn(outputs), dtype)
    return matrix, kernels.rows(torch.randn(rows, depth), dtype)


def assert_right(matrix, rows, result):
    """Every sum within what float32 additions in any order may err by; the products themselves are exact."""
    want = rows.exact @ matrix.weight.T + matrix.bias
    magnitude = rows.exact.abs() @ matrix.weight.abs().T + matrix.bias.abs()
    additions = matrix.weight.shape[1] / 32 + 40
    assert ((result.double() - want).abs() <= magnitude * additions * 2.0**-23).all()


@DTYPES
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 33, 40, 65] if SANITIZED else [*range(1, 41), 64, 65, 100])
def test_short_any_number_of_rows(kernels, dtype, rows):
    matrix, activations = inputs(kernels, dtype, rows, 96, 70)
    result = kernels.with_tiles(lambda: kernels.product(matrix, activations))
    assert_right(matrix, activations, result)
    assert torch.equal(result, kernels.with_vectors(lambda: kernels.product(matrix, activations)))


@DTYPES
@pytest.mark.parametrize("depth", [64, 66, 96, 100, 150, 312, 384, 768, 3072])
@pytest.mark.parametrize(("rows", "outputs"), [(3, 64), (19, 65), (40, 3), (33, 130)])
def test_any_depth_and_width(kernels, dtype, depth, rows, outputs):
    matrix, activations = inputs(kernels, dtype, rows, depth, outputs)
    result = kernels.with_tiles(lambda: kernels.product(matrix, activations))
    assert_right(matrix, activations, result)
    assert torch.equal(result, kernels.with_vectors(lambda: kernels.product(matrix, activations)))


@DTYPES
@pytest.mark.parametrize("depth", [2, 6, 30, 32, 34, 62])
def test_short_shallow_products(kernels, dtype, depth):
    """Less than a step, in bfloat16 (32) and in int8 (64), is left to vectors."""
    matrix, activations = inputs(kernels, dtype, 20, depth, 64)
    result = kernels.product(matrix, activations)
    assert_right(matrix, activations, result)
    assert torch.equal(result, kernels.with_vectors(lambda: kernels.product(matrix, activations)))


@DTYPES
def test_short_rows_do_not_depend_on_their_company(kernels, dtype):
    matrix, activations = inputs(kernels, dtype, 45, 96, 64)
    together = kernels.product(matrix, activations)
    for begin, end in [(0, 1), (1, 3), (3, 20), (20, 45), (7, 40)]:
        part = kernels.product(matrix, activations, begin=begin, end=end)
        assert torch.equal(part[begin:end], together[begin:end])
        assert part[:begin].isnan().all() and part[end:].isnan().all()


@DTYPES
@pytest.mark.parametrize("epilogue", ["none", "relu", "gelu"])
def test_short_what_follows_a_product(kernels, dtype, epilogue):
    matrix, activations = inputs(kernels, dtype, 37, 128, 100)
    residual = torch.randn(37, 100)
    plain = kernels.product(matrix, activations)
    result = kernels.with_tiles(lambda: kernels.product(matrix, activations, epilogue=epilogue, residual=residual))
    after = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}[epilogue](plain) + residual
    torch.testing.assert_close(result, after, rtol=1e-6, atol=2e-6)


@DTYPES
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_short_a_bad_row_leaves_its_neighbours_alone(kernels, dtype, bad):
    values = torch.randn(20, 96)
    matrix = kernels.pack(torch.randn(64, 96), torch.randn(64), dtype)
    want = kernels.product(matrix, kernels.rows(values, dtype))
    values[17, 40] = bad
    result = kernels.with_tiles(lambda: kernels.product(matrix, kernels.rows(values, dtype)))
    others = torch.arange(20) != 17
    assert torch.equal(result[others], want[others])
    assert not result[17].isfinite().any()


@DTYPES
def test_short_nothing_behind_the_last_row_is_read(kernels, dtype):
    """The page behind it belongs to nobody: 37 rows are 32 by tiles and then 5."""
    matrix, activations = inputs(kernels, dtype, 37, 96, 64)
    want = kernels.product(matrix, activations)
    activations.values = at_the_end_of_memory(activations.values)
    assert torch.equal(kernels.with_tiles(lambda: kernels.product(matrix, activations)), want)


@DTYPES
def test_short_tiles_that_another_library_left_behind(kernels, dtype):
    matrix, activations = inputs(kernels, dtype, 21, 96, 64)
    want = kernels.product(matrix, activations)
    kernels.leave_tiles_configured()
    assert torch.equal(kernels.with_tiles(lambda: kernels.product(matrix, activations)), want)


def test_short_numbers_below_the_smallest_normal_one(kernels):
    """Tiles take them for 0, and so must vectors."""
    weight = torch.randn(64, 96) * torch.tensor([1.0, 1e-20, 1e-38, 1e-40]).repeat(24)
    values = torch.randn(20, 96) * torch.tensor([1e-19, 1e-38, 1e-30, 1.0]).repeat_interleave(24)
    matrix, activations = kernels.pack(weight, torch.zeros(64), torch.bfloat16), kernels.rows(values, torch.bfloat16)
    result = kernels.with_tiles(lambda: kernels.product(matrix, activations))
    assert torch.equal(result, kernels.with_vectors(lambda: kernels.product(matrix, activations)))


def test_short_the_largest_integers(kernels):
    """No sum saturates: 3072 products of 255 and 127."""
    weight, values = torch.full((64, 3072), 1.0), torch.full((17, 3072), 1.0)
    matrix, activations = kernels.pack(weight, torch.zeros(64), torch.int8), kernels.rows(values, torch.int8)
    assert activations.values.max() == 255
    torch.testing.assert_close(
        kernels.with_tiles(lambda: kernels.product(matrix, activations)), torch.full((17, 64), 3072.0)
    )

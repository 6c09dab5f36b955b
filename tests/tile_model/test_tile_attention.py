"""Attention by tiles: against float64, and bit for bit against vectors."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.proof  # the first compiles the kernels


def exact(rows, heads):
    """Attention of one sample in float64, of bfloat16 queries, keys and values [n, 3 H]."""
    query, key, value = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in rows.double().chunk(3, dim=1))
    shares = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)
    return (shares @ value).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129])
@pytest.mark.parametrize(("heads", "head_size"), [(2, 64), (1, 32), (3, 40), (1, 128), (2, 6)])
def test_short_lengths_and_sizes(kernels, n, heads, head_size):
    rows = torch.randn(n, 3 * heads * head_size).bfloat16()
    result = kernels.with_tiles(lambda: kernels.attention(rows, heads))
    want = exact(rows, heads)
    # Attention weights are rounded to 8 bits, which averages out, and so is the result.
    assert (result.double() - want).abs().max() <= 2.0**-7 * rows[:, 2 * heads * head_size :].abs().max().double()
    assert torch.equal(result, kernels.with_vectors(lambda: kernels.attention(rows, heads)))


def test_short_odd_head_size(kernels):
    """Pairs of values do not fit it: it is multiplied in float32."""
    rows = torch.randn(20, 3 * 7).bfloat16()
    assert (kernels.attention(rows, 1).double() - exact(rows, 1)).abs().max() <= 2.0**-7 * rows.abs().max().double()


def test_short_tiles_that_another_library_left_behind(kernels):
    rows = torch.randn(20, 3 * 64).bfloat16()
    want = kernels.attention(rows, 1)
    kernels.leave_tiles_configured()
    assert torch.equal(kernels.with_tiles(lambda: kernels.attention(rows, 1)), want)

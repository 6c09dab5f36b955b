from __future__ import annotations

import math

import pytest
import torch

from fastbert_hf.exits.uncertainty import mean_binary_entropy, normalised_entropy, uncertainty


def test_binary_entropy_is_the_definition() -> None:
    logits = torch.randn(2, 50, 4, dtype=torch.float64) * 5
    p = torch.sigmoid(logits)
    expected = (-(p * p.log2() + (1 - p) * (1 - p).log2())).mean(-1)
    result = mean_binary_entropy(logits)
    assert result.dtype == torch.float32 and result.shape == (2, 50)
    torch.testing.assert_close(result, expected.float(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(mean_binary_entropy(logits.float()), expected.float(), rtol=1e-5, atol=1e-6)
    assert torch.equal(uncertainty(logits, multi_label=True), result)
    assert torch.equal(uncertainty(logits, multi_label=False), normalised_entropy(logits))


def test_binary_entropy_of_extreme_logits() -> None:
    inf, nan = math.inf, math.nan
    result = mean_binary_entropy(
        torch.tensor([[0.0, 0.0], [1e4, -1e4], [0.0, 200.0], [0.0, nan], [0.0, inf], [-inf, 0.0]])
    )
    assert result[:3].tolist() == [1.0, 0.0, 0.5]
    assert result[3:].isnan().all()


@pytest.mark.parametrize("num_labels", [2, 3, 100])
def test_entropy_of_uniform_is_one_and_of_certain_is_zero(num_labels: int) -> None:
    uniform = torch.full((1, num_labels), 3.7)
    certain = torch.full((1, num_labels), -1e4)
    certain[0, 0] = 1e4
    assert normalised_entropy(uniform).item() == pytest.approx(1.0, abs=1e-6)
    assert normalised_entropy(uniform).item() <= 1.0
    assert normalised_entropy(certain).item() == 0.0


def test_entropy_is_the_definition() -> None:
    logits = torch.randn(50, 4, dtype=torch.float64) * 5
    p = torch.softmax(logits, dim=-1)
    expected = -(p * p.log()).sum(-1) / math.log(4)
    result = normalised_entropy(logits)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected.float(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(normalised_entropy(logits.float()), expected.float(), rtol=1e-5, atol=1e-6)


def test_entropy_of_extreme_logits() -> None:
    inf, nan = math.inf, math.nan
    result = normalised_entropy(torch.tensor([[0.0, -inf], [0.0, nan], [0.0, inf], [-inf, -inf]]))
    assert result[0].item() == 0.0
    assert result[1:].isnan().all()


def test_entropy_of_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(20, 5).bfloat16()
    torch.testing.assert_close(normalised_entropy(logits), normalised_entropy(logits.float()), rtol=0, atol=0)


def test_entropy_needs_two_classes() -> None:
    with pytest.raises(ValueError, match="N >= 2"):
        normalised_entropy(torch.zeros(3, 1))


def test_entropy_keeps_leading_dimensions() -> None:
    logits = torch.randn(2, 3, 4)
    assert normalised_entropy(logits).shape == (2, 3)
    assert normalised_entropy(logits[:0]).shape == (0, 3)

from __future__ import annotations

import math

import pytest
import torch

from fastbert_hf.exits.criteria import CRITERIA, criterion_of
from fastbert_hf.exits.uncertainty import change_of_score, mean_binary_entropy, normalised_entropy, top_k_entropy


def test_binary_entropy_is_the_definition() -> None:
    logits = torch.randn(2, 50, 4, dtype=torch.float64) * 5
    p = torch.sigmoid(logits)
    expected = (-(p * p.log2() + (1 - p) * (1 - p).log2())).mean(-1)
    result = mean_binary_entropy(logits)
    assert result.dtype == torch.float64 and result.shape == (2, 50)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    narrow = mean_binary_entropy(logits.float())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, expected.float(), rtol=1e-5, atol=1e-6)


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
    result, narrow = normalised_entropy(logits), normalised_entropy(logits.float())
    assert result.dtype == torch.float64 and narrow.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(narrow, expected.float(), rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("num_labels", [2, 3, 41])
def test_every_criterion_reports_a_share(num_labels: int) -> None:
    logits = torch.randn(3, 50, num_labels) * 4
    logits[0, 0], logits[0, 1, 0], logits[0, 2, 1], logits[0, 3] = 0.0, math.nan, math.inf, -math.inf
    for criterion in CRITERIA.values():
        if criterion.compares_heads:
            continue
        for parameter in criterion.candidates(num_labels):
            found = criterion.uncertainty(logits, parameter, None)
            assert found.shape == (3, 50) and found.dtype == torch.float32
            assert found[0, 1:4].isnan().all() and found.isnan().sum() == 3
            assert ((found >= 0) & (found <= 1))[~found.isnan()].all()
            wide = criterion.uncertainty(logits.double(), parameter, None)
            assert wide.dtype == torch.float64
            torch.testing.assert_close(found.double(), wide, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_change_of_a_score() -> None:
    inf, nan = math.inf, math.nan
    scores, before = (
        torch.tensor([[1.5], [-2.0], [nan], [inf], [0.5]]),
        torch.tensor([[1.0], [nan], [0.0], [0.0], [0.5]]),
    )
    change = change_of_score(scores, before)
    assert change.tolist() == pytest.approx([0.5, inf, nan, nan, 0.0], abs=0, nan_ok=True)
    assert change_of_score(scores, None).tolist() == pytest.approx([inf, inf, nan, nan, inf], nan_ok=True)
    assert change_of_score(scores.double(), before.double()).dtype == torch.float64


def test_top_k_entropy_is_that_of_the_likeliest_alone() -> None:
    logits = torch.randn(50, 7, dtype=torch.float64)
    p = logits.softmax(dim=-1).sort(dim=-1, descending=True).values[:, :3]
    p = p / p.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(top_k_entropy(logits, 3), -(p * p.log()).sum(dim=-1) / math.log(3))
    torch.testing.assert_close(top_k_entropy(logits, 99), normalised_entropy(logits))


@pytest.mark.parametrize(
    ("name", "parameter", "message"),
    [
        ("sureness", 0, "unknown criterion 'sureness'; choose one of entropy, "),
        ("entropy", 2, "'entropy' has no parameter, so it must be 0, got 2"),
        ("top_k_entropy", 1, "must be at least 2 and at most .*, got 1"),
        ("patience", 0, "must be at least 1 and at most .*, got 0"),
        ("patience", True, "must be an integer, got True"),
    ],
)
def test_criteria_that_are_none_are_refused(name: str, parameter: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        criterion_of(name, parameter)

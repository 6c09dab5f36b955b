"""Temperatures against brute force, and their folding against division."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import fastbert_kernels
from fastbert_hf.calibration import (
    ExitRecords,
    ExitRule,
    fold_temperatures,
    model_fingerprint,
    record_exits,
    scale_temperatures,
    simulate,
    split_rows,
)
from fastbert_hf.calibration.temperature import (
    HIGHEST,
    LOWEST,
    divide,
    expected_calibration_error,
    fit_temperature,
    fit_temperatures,
)
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.flops import ModelShape
from helpers.training import make_data, make_model, make_tokenizer


def make_records(size: int = 600, labels: int = 5, seed: int = 0) -> ExitRecords:
    """Draw labels from the softmax of scores; the heads give those scores times 4, 1 and 1/3."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(size, labels, generator=generator)
    classes = torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)[:, 0]
    logits = torch.stack([4 * scores, scores, scores / 3], dim=1)
    lengths = torch.randint(3, 60, (size,), generator=generator)
    return ExitRecords(logits, classes, lengths, ModelShape(256, 1024, 3, 16, labels), "0" * 64)


def likelihood_loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    scores = logits.astype(np.float64) / temperature
    scores -= scores.max(axis=1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize(("labels", "size", "seed"), [(2, 40, 1), (5, 600, 0), (60, 200, 2)])
def test_temperature_is_that_of_brute_force(labels, size, seed) -> None:
    records = make_records(size, labels, seed)
    grid = np.geomspace(LOWEST, HIGHEST, 4001)
    for logits, found in zip(records.logits.unbind(dim=1), fit_temperatures(records), strict=True):
        losses = [likelihood_loss(logits.numpy(), records.labels.numpy(), t) for t in grid]
        assert found == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)
        assert likelihood_loss(logits.numpy(), records.labels.numpy(), found) <= min(losses) + 1e-12


def test_temperatures_undo_what_made_the_heads_too_sure() -> None:
    records = make_records(4000)
    assert fit_temperatures(records) == pytest.approx((4, 1, 1 / 3), rel=0.1)
    scaling = scale_temperatures(records)
    assert scaling.error_before[0] > 0.15 and scaling.error_before[2] > 0.1
    assert all(error < 0.05 for error in scaling.error_after)
    assert torch.equal(scaling.records.predictions, records.predictions)
    assert scaling.speedup_before == tuple(sorted(scaling.speedup_before)) and scaling.speedup_before[0] >= 1


def test_temperatures_at_their_bounds_and_without_finite_logits() -> None:
    right = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(right, [0, 1]) == LOWEST  # always right: the surer the better
    assert fit_temperature(right, [1, 0]) == HIGHEST
    assert fit_temperature(np.full((2, 2), np.nan), [0, 1]) == 1.0
    records = make_records(50)
    with_nan = np.concatenate([records.logits[:, 0].numpy(), [[np.nan] * 5, [np.inf] * 5]])
    labels = np.append(records.labels.numpy(), [0, 1])
    assert fit_temperature(with_nan, labels) == fit_temperatures(records)[0]


def test_calibration_error_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, labels = 2 * torch.randn(500, 3, generator=generator), torch.randint(3, (500,), generator=generator)
    p = torch.softmax(logits.double(), dim=-1).numpy()
    expected = 0.0
    for low in range(15):
        inside = [row for row in range(500) if low / 15 < p[row].max() <= (low + 1) / 15]
        if inside:
            accuracy = np.mean([p[row].argmax() == labels[row].item() for row in inside])
            expected += len(inside) / 500 * abs(accuracy - np.mean([p[row].max() for row in inside]))
    assert expected_calibration_error(logits, labels) == pytest.approx(expected, abs=1e-12)
    assert expected_calibration_error(torch.tensor([[90.0, 0.0], [0.0, 90.0]]), torch.tensor([0, 0])) == 0.5


def test_samples_of_the_test_do_not_touch_the_temperatures() -> None:
    records = make_records()
    _, testing = split_rows(len(records), 0.5, seed=4)
    labels = records.labels.clone()
    labels[testing] = (labels[testing] + 1) % 5
    before, after = scale_temperatures(records, seed=4), scale_temperatures(replace(records, labels=labels), seed=4)
    assert before.temperatures == after.temperatures and before.error_after != after.error_after
    assert before.fitted_samples == len(records) // 2


@pytest.mark.parametrize("options", [{}, {"head_type": "pooled", "head_num_dense_layers": 0}])
@pytest.mark.parametrize("patched", [False, True])
def test_folded_temperatures_divide_the_logits(options, patched) -> None:
    model = make_model(**options).eval()
    for head in model.heads:
        torch.nn.init.normal_(head.classifier.bias)
    dataset = TokenisedDataset(make_data(60), make_tokenizer(), 16)
    before = record_exits(model, dataset)
    if patched:
        fastbert_kernels.patch(model)
        with torch.inference_mode():
            model(torch.tensor([[2, 6, 3]]), speed=0.5)  # so that the kernels have prepared the weights
    temperatures = (0.3, 1.7, 4.0)
    fold_temperatures(model, temperatures, make_data(20))
    assert model.seen_texts.among(make_data(60)).fitted_temperatures[:20].all()
    expected = before.logits.double() / torch.tensor(temperatures, dtype=torch.float64)[:, None]
    after = record_exits(model, dataset)
    torch.testing.assert_close(after.logits.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(after.predictions, before.predictions)
    assert after.fingerprint == model_fingerprint(model) != before.fingerprint
    batch = next(iter(dataset.batches(60)))
    with torch.inference_mode():
        answer = model(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(answer.logits.double(), expected[:, -1], rtol=1e-4, atol=1e-4)


def test_temperatures_that_cannot_be_folded_are_refused() -> None:
    with pytest.raises(ValueError, match="3 exit heads need as many temperatures, got 2"):
        fold_temperatures(make_model(), (1.0, 2.0), None)
    with pytest.raises(ValueError, match="must be float32, and this model's are torch.bfloat16"):
        fold_temperatures(make_model().bfloat16(), (1.0, 2.0, 3.0), None)


def test_divided_records_decide_as_the_division_says() -> None:
    records = make_records()
    scaled = divide(records, (4.0, 1.0, 1 / 3))
    torch.testing.assert_close(scaled.logits[:, 0], scaled.logits[:, 1])
    assert simulate(scaled, ExitRule.one_speed((1, 2), 0.5)).exit_layers.max() == 3

"""Temperatures against brute force, their folding against division, and latency wishes with a clock of our own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import fastbert_kernels
from fastbert_hf.calibration import (
    Clock,
    ExitRecords,
    ExitRule,
    Objective,
    calibrate,
    calibrate_to_latency,
    fold_temperatures,
    model_fingerprint,
    record_exits,
    scale_temperatures,
    simulate,
    split_rows,
)
from fastbert_hf.calibration.latency import speedup_needed
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
from training_support import make_data, make_model, make_tokenizer


def make_records(size: int = 600, labels: int = 5, seed: int = 0) -> ExitRecords:
    """Labels are drawn from the softmax of scores; the heads give those scores times 4, 1 and 1/3."""
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
    _, testing = split_rows(len(records), seed=4)
    labels = records.labels.clone()
    labels[testing] = (labels[testing] + 1) % 5
    before, after = scale_temperatures(records, seed=4), scale_temperatures(replace(records, labels=labels), seed=4)
    assert before.temperatures == after.temperatures and before.error_after != after.error_after
    assert before.fitted_samples == 300


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
    fold_temperatures(model, temperatures)
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
        fold_temperatures(make_model(), (1.0, 2.0))
    with pytest.raises(ValueError, match="must be float32, and this model's are torch.bfloat16"):
        fold_temperatures(make_model().bfloat16(), (1.0, 2.0, 3.0))


def test_divided_records_decide_as_the_division_says() -> None:
    records = make_records()
    scaled = divide(records, (4.0, 1.0, 1 / 3))
    torch.testing.assert_close(scaled.logits[:, 0], scaled.logits[:, 1])
    assert simulate(scaled, ExitRule.one_speed((1, 2), 0.5)).exit_layers.max() == 3


def make_deepening_records(size: int = 400, heads: int = 4) -> ExitRecords:
    """The deeper the head, the more samples it gets right."""
    generator = torch.Generator().manual_seed(6)
    classes = torch.randint(3, (size,), generator=generator)
    logits = torch.randn(size, heads, 3, generator=generator)
    logits[torch.arange(size), :, classes] += torch.linspace(1, 5, heads) - 2 * torch.rand(size, 1, generator=generator)
    lengths = torch.randint(3, 60, (size,), generator=generator)
    return ExitRecords(logits, classes, lengths, ModelShape(256, 1024, heads, 16, 3), "0" * 64)


class FakeClock:
    """Milliseconds that are an overhead and a share of the FLOPs; `lies` times longer when a rule is measured alone."""

    def __init__(self, records: ExitRecords, overhead: float = 1.0, lies: float = 1.0) -> None:
        self.records, self.overhead, self.lies = records, overhead, lies
        self.measured: list[list[ExitRule]] = []

    def measure(self, rules: list[ExitRule]) -> list[float]:
        self.measured.append(list(rules))
        slower = self.lies if len(self.measured) > 1 else 1.0
        return [self.overhead + slower * 9 / simulate(self.records, rule).flops_speedup for rule in rules]

    def clock(self) -> Clock:
        return Clock(self.measure, batch_size=1, texts=8, machine="a clock", precision="fp32")


@pytest.mark.parametrize("search", ["searched", "one_speed"])
@pytest.mark.parametrize("wish", [5.0, 7.0, 100.0])
def test_latency_is_turned_into_the_speedup_it_takes(search, wish) -> None:
    records = make_deepening_records()
    fake = FakeClock(records)
    setting = calibrate_to_latency(records, wish, fake.clock(), search=search).setting
    assert setting.objective == Objective(max_latency_ms=wish) and setting.evidence.guarantee is None
    assert setting.latency.ms_per_text <= wish and setting.latency.full_depth_ms_per_text == 10
    # By the definition of the clock, 1 ms and 9 ms of FLOPs at full depth.
    wanted = Objective(min_speedup=max(1.0, 9 / (wish - 1)) * (1 - 1e-6))
    assert setting.figures.flops_speedup >= wanted.min_speedup
    assert setting.figures.accuracy == calibrate(records, wanted, search=search).figures.accuracy
    assert len(fake.measured) == 2, "the first rule was fast enough"


def test_rules_that_are_slower_than_expected_are_chosen_again() -> None:
    records = make_deepening_records()
    fake = FakeClock(records, lies=1.2)
    setting = calibrate_to_latency(records, 6.0, fake.clock()).setting
    assert 2 < len(fake.measured) <= 4 and setting.latency.ms_per_text <= 6.0
    speedups = [simulate(records, rules[1]).flops_speedup for rules in fake.measured[1:]]
    assert speedups == sorted(speedups) and speedups[0] < speedups[-1]


def test_a_clock_that_never_agrees_falls_back_on_what_was_measured() -> None:
    records = make_deepening_records()
    fake = FakeClock(records, lies=50)
    setting = calibrate_to_latency(records, 6.0, fake.clock()).setting
    assert len(fake.measured) == 4 and setting.rule in fake.measured[0] and setting.latency.ms_per_text <= 6.0


def test_latencies_out_of_reach_are_refused_with_the_fastest() -> None:
    records = make_deepening_records()
    with pytest.raises(ValueError, match=r"no exit rule takes 2 ms .*: full depth takes 10 ms .* a clock"):
        calibrate_to_latency(records, 2.0, FakeClock(records).clock())
    with pytest.raises(ValueError, match="use calibrate_to_latency"):
        calibrate(records, Objective(max_latency_ms=5.0))
    with pytest.raises(ValueError, match="5 samples are too few"):
        calibrate_to_latency(records.rows(torch.arange(5)), 5.0, FakeClock(records).clock())


def test_speedup_between_measured_ones_is_linear_in_the_flops() -> None:
    points = [(1.0, 10.0), (2.0, 6.0), (4.0, 4.0)]
    assert speedup_needed(points, 5.0) == pytest.approx(1 / 0.375)
    assert speedup_needed(points, 20.0) == 1.0 and speedup_needed(points, 1.0) == 4.0
    noisy = [*points, (3.0, 7.0)]  # slower than a rule with more FLOPs: those are believed to take as long
    assert speedup_needed(noisy, 6.9) > speedup_needed(points, 6.9) and speedup_needed(noisy, 6.9) > 3

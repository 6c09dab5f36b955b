"""Wishes for a latency, with a clock of our own."""

from __future__ import annotations

import pytest
import torch

from fastbert_hf.calibration import (
    ExitRecords,
    Objective,
    calibrate,
    calibrate_to_latency,
    simulate,
)
from fastbert_hf.calibration.latency import speedup_needed
from fastbert_hf.flops import ModelShape
from helpers.clocks import FakeClock


def make_deepening_records(size: int = 400, heads: int = 4) -> ExitRecords:
    """The deeper the head, the more samples it gets right."""
    generator = torch.Generator().manual_seed(6)
    classes = torch.randint(3, (size,), generator=generator)
    logits = torch.randn(size, heads, 3, generator=generator)
    logits[torch.arange(size), :, classes] += torch.linspace(1, 5, heads) - 2 * torch.rand(size, 1, generator=generator)
    lengths = torch.randint(3, 60, (size,), generator=generator)
    return ExitRecords(logits, classes, lengths, ModelShape(256, 1024, heads, 16, 3), "0" * 64)


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

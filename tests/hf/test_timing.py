"""Calls that take turns, on a clock of our own; what a `Clock` times; and how far two models agree."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from fastbert_hf import timing
from fastbert_hf.agreement import Agreement, compare_answers
from fastbert_hf.calibration import Clock, ExitRule, calibrate_to_latency, record_exits
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.timing import Seconds, batch_calls, inputs_of, ratio, time_interleaved
from helpers.models import spread_model
from helpers.training import make_data, make_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def one_second_each(monkeypatch):
    """Every look at the clock is a second later."""
    ticks = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))


@pytest.fixture(scope="module")
def model():
    return spread_model(layers=3)


@pytest.fixture(scope="module")
def dataset():
    return TokenisedDataset(make_data(60), make_tokenizer(), 16)


def test_contestants_take_turns_call_by_call(one_second_each):
    order: list[str] = []
    told: list[tuple[str, int, int]] = []

    def call(name: str):
        return lambda: order.append(name)

    times = time_interleaved(
        {"a": [call("a1"), call("a2")], "b": [call("b1"), call("b2")]},
        CPU,
        2,
        warmups=1,
        progress=lambda *step: told.append(step),
    )
    assert order == ["a1", "b1", *["a1", "b1", "a2", "b2"] * 2]
    assert times == {"a": Seconds([2, 2]), "b": Seconds([2, 2])}  # two calls of a second in each round
    assert told == [("times", done, 8) for done in range(1, 9)]


def test_one_call_each_warmed_up_and_shuffled():
    order: list[str] = []
    contestants = {name: lambda name=name: order.append(name) for name in "abcdef"}
    times = time_interleaved(contestants, CPU, 5, warmups=2, shuffle=True)
    assert order[:12] == sorted("abcdef" * 2)
    rounds = ["".join(order[start : start + 6]) for start in range(12, 42, 6)]
    assert all(sorted(one) == list("abcdef") for one in rounds) and len(set(rounds)) > 1
    assert all(len(seconds.rounds) == 5 for seconds in times.values())


def test_contestants_with_unequal_parts_are_refused():
    with pytest.raises(ValueError):
        time_interleaved({"a": [int], "b": [int, int]}, CPU, 1)


def test_ratio_is_taken_within_rounds():
    assert ratio(Seconds([2.0, 40.0, 6.0]), Seconds([1.0, 10.0, 2.0])) == 3.0
    seconds = Seconds([float(n) for n in range(11)])
    assert seconds.quantiles == (2.0, 5.0, 8.0) and seconds.median == 5.0
    assert Seconds([4.0]).quantiles == (4.0, 4.0, 4.0)


# The clock of a model.


def test_a_clock_times_texts_of_all_lengths(model, dataset, one_second_each):
    clock = Clock.of(model, dataset, batch_size=8, seconds=1e9, precision="exact")
    # 60 texts in whole batches of 8, of which each takes a second.
    assert (clock.batch_size, clock.texts, clock.precision) == (8, 56, "exact")
    full_depth, other = ExitRule(()), ExitRule((1,), (0.5,))
    assert clock.measure([full_depth, other, full_depth]) == [125.0, 125.0, 125.0]
    assert Clock.of(model, dataset, seconds=0).texts == 16 and Clock.of(model, dataset).precision == "float32"


def test_a_rule_that_is_there_twice_is_timed_once(model, dataset):
    """The rule that is chosen may be full depth, which is timed beside it."""
    told: list[int] = []
    clock = Clock.of(model, dataset, 16, rounds=2, seconds=0, progress=lambda step, done, total: told.append(total))
    assert clock.texts == 16
    clock.measure([ExitRule(()), ExitRule((1,), (0.5,)), ExitRule(())])
    assert told == [4] * 4  # two rules, one batch, two rounds


def test_a_clock_is_what_latency_is_calibrated_with(model):
    dataset = TokenisedDataset(make_data(120), make_tokenizer(), 16)
    setting = calibrate_to_latency(record_exits(model, dataset), 1000, Clock.of(model, dataset, seconds=0)).setting
    assert 0 < setting.latency.ms_per_text < 1000 and setting.latency.texts == 16
    with pytest.raises(ValueError, match="nothing to time"):
        Clock.of(model, TokenisedDataset(make_data(0), make_tokenizer(), 16))


def test_full_depth_is_full_depth_for_a_calibrated_model_too():
    asked = []

    def model(input_ids, speed):
        asked.append(speed)
        return SimpleNamespace(exit_layer=input_ids)

    rule = ExitRule((1,), (0.5,))
    for depth in (None, 0.3, rule):
        for call in batch_calls(model, [{"input_ids": torch.zeros(2, 3)}] * 2, depth):
            call()
    assert asked == [0.0, 0.0, 0.3, 0.3, rule, rule]


# Agreement.


def test_a_model_agrees_with_itself_and_not_with_another(model, dataset):
    batches = [inputs_of(batch, CPU) for batch in dataset.batches(16)]
    assert all("labels" not in batch for batch in batches)
    found = compare_answers(model, model, batches, [0.2, 0.8])
    assert found == _all_equal(found) and found.is_close
    other = spread_model(layers=3)
    with torch.no_grad():
        for head in other.heads:
            for parameter in head.parameters():
                parameter.neg_()
    found = compare_answers(model, other, batches, [0.2, 0.8])
    assert not found.is_close and found.labels < 1


def test_samples_at_the_speed_decide_nothing(model, dataset):
    batches = [inputs_of(batch, CPU) for batch in dataset.batches(16)]

    def leaves_elsewhere(speed, **batch):
        output = model(**batch, speed=speed)
        return SimpleNamespace(logits=output.logits, exit_layer=output.exit_layer + 1)

    found = compare_answers(model, leaves_elsewhere, batches, [0.5], tie=2.0)
    assert found == _all_equal(found)
    assert compare_answers(model, leaves_elsewhere, batches, [0.5], tie=0.0).exit_layers == 0


def _all_equal(found: Agreement) -> Agreement:
    return Agreement(1.0, 1.0, 0.0, found.answers, 0, found.decided, 0)

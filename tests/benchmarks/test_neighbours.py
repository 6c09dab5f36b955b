"""The benchmark of neighbours: what its figures are made of."""

from __future__ import annotations

from dataclasses import asdict

import pytest

import documents.neighbours
import neighbours
from neighbours import ALONE, BATCH, BUSY, ONE_THREAD, PAIR, Turn


def turn(calls, seconds=1.0, cpu_seconds=1.0, slowest=0.01):
    return Turn(seconds, cpu_seconds, [0.01] * (calls - 1) + [slowest])


def test_processes_that_end_at_different_times_add_up_by_their_rates():
    both = neighbours.together([turn(10, seconds=1.0, cpu_seconds=0.5), turn(10, seconds=2.0, cpu_seconds=0.7)])
    assert both.rate == pytest.approx(15 * BATCH)
    assert both.cpu_seconds == pytest.approx(1.2) and len(both.calls) == 20


def test_ratios_are_those_of_neighbouring_turns():
    turns = {
        ALONE: [turn(100), turn(10), turn(50)],
        PAIR: [turn(90), turn(9), turn(60)],
        BUSY: [turn(40, cpu_seconds=0.5), turn(4, cpu_seconds=0.5), turn(20, cpu_seconds=1.0)],
        ONE_THREAD: [turn(100), turn(10), turn(20)],
    }
    found = neighbours.summary(turns)
    assert found["pair_rate"] == pytest.approx(0.9)
    assert found["busy_rate_per_cpu_second"] == pytest.approx(0.8)
    assert found["rate alone"] == 50 * BATCH and found["cpu_seconds_per_second"] == 0.5


def in_a_file(engine, turns):
    return {
        "engine": engine,
        **neighbours.summary(turns),
        "turns": {name: list(map(asdict, of)) for name, of in turns.items()},
    }


def test_the_documents_show_the_spread_of_the_ratios():
    rounds = [90, 100, 110, 80, 120]
    turns = dict.fromkeys((ALONE, ONE_THREAD), [turn(100)] * 5) | {BUSY: [turn(50, cpu_seconds=0.5)] * 5}
    engine = in_a_file("ours patched int8", turns | {PAIR: [turn(calls) for calls in rounds]})
    machine = {"processor": "AMD EPYC", "date": "2026-11-30T15:00:00+00:00"}
    result = {"machine": machine, "shape": "tiny", "batch": 8, "cores": 2, "rounds": 5, "load": (0.5, 1, 1)}
    absent = {"engine": "OpenVINO float32", "not_available": "no module"}
    text = documents.neighbours.neighbours({"amd_avx2": {**result, "engines": [engine, absent]}})
    assert "| ours patched int8 | 1.00 (0.88 to 1.12) | 1.0 | 1.00 (1.00 to 1.00) |" in text
    assert "| mark for ours | at least 0.9 | at most 2.5 | at least 0.8 |" in text
    assert text.startswith("AMD EPYC, AVX2: tiny") and "- OpenVINO float32: not available: no module" in text
    assert documents.neighbours.neighbours({}) == "Not measured yet."


def test_the_slowest_calls_of_all_rounds_count():
    turns = [turn(100), turn(98, slowest=0.5), turn(2, slowest=0.7)]
    assert neighbours.percentile(turns, 50) == 0.01
    assert neighbours.percentile(turns, 99) == 0.5
    assert neighbours.percentile(turns[:1], 99) == 0.01


def test_the_page_names_who_was_not_there():
    result = {"shape": "tiny", "rounds": 1, "seconds": 1.0, "cores": 2, "load": (0.1, 0.2, 0.3)}
    page = neighbours.table({**result, "engines": [{"engine": "OpenVINO float32", "not_available": "no module"}]})
    assert "- OpenVINO float32: not available: no module" in page and "before the run: 0.1, 0.2, 0.3" in page


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (["--rounds", "0"], "--rounds must be 1 or more"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--seconds", "nan"], "--seconds must be above 0"),
    ],
)
def test_options_that_measure_nothing_are_refused(bad, message, capsys):
    with pytest.raises(SystemExit):
        neighbours.parse_arguments(bad)
    assert message in capsys.readouterr().err

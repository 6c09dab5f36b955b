"""The benchmark of neighbours: what its figures are made of."""

from __future__ import annotations

import pytest

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


def test_the_slowest_calls_of_all_rounds_count():
    turns = [turn(100), turn(98, slowest=0.5), turn(2, slowest=0.7)]
    assert neighbours.percentile(turns, 50) == 0.01
    assert neighbours.percentile(turns, 99) == 0.5
    assert neighbours.percentile(turns[:1], 99) == 0.01


def test_the_page_names_who_was_not_there():
    result = {"shape": "tiny", "rounds": 1, "seconds": 1.0, "cores": 2, "load": (0.1, 0.2, 0.3)}
    page = neighbours.table({**result, "engines": [{"engine": "OpenVINO float32", "not_available": "no module"}]})
    assert "- OpenVINO float32: not available: no module" in page and "before the run: 0.1, 0.2, 0.3" in page


@pytest.mark.parametrize("bad", [["--rounds", "0"], ["--seconds", "0"], ["--seconds", "nan"]])
def test_options_that_measure_nothing_are_refused(bad, capsys):
    with pytest.raises(SystemExit):
        neighbours.parse_arguments(bad)
    assert "--rounds must be 1 or more" in capsys.readouterr().err

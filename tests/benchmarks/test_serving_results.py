"""What comes of the benchmark of the server: loads that all are tried at, goodput, the page, names of files."""

from __future__ import annotations

import argparse
import math

import pytest

import serve
from fastbert_kernels.engine.layer_cost import LayerCost
from serving.load import Outcome, send
from serving.measure import Bench
from serving.names import NO_REFILL, ONNX, REFILL, SHELL
from serving.report import MARKS, case_parts, verdict
from serving.search import LATE_SHARE, LIMITS, LOWEST, STEP, Goodput, goodput, grid, median_goodput, percentile
from serving.simulation import Machine, Text
from serving.subjects import Facts, Subject

# The search.


@pytest.mark.parametrize("limit", [0.5, 9.0, 33.3, 1e9])
def test_goodput_is_the_highest_load_that_passes(limit):
    rates, tried = grid(100.0, 8.0), []

    def late_share(rate):
        tried.append(rate)
        return 0.0 if rate <= limit else 0.5

    assert goodput(rates, late_share) == max([rate for rate in rates if rate <= limit], default=0.0)
    assert len(tried) <= math.ceil(math.log2(len(rates) + 1))


def test_percentiles():
    assert percentile(range(100), 99) == 98 and percentile([7.0], 50) == 7.0 and percentile([1, math.inf], 99) > 1


@pytest.mark.parametrize("count", [1, 50, 99, 100, 101, 199, 200, 299, 700])
def test_a_load_is_good_if_and_only_if_its_99th_percentile_is(count):
    for late in range(min(count, 10) + 1):
        outcome = Outcome([1.0] * late + [0.025] * (count - late))
        assert (outcome.late_share(0.025) <= LATE_SHARE) == (percentile(outcome.latencies, 99) <= 0.025)


def searches_of(*rounds, lowest=2.0):
    return [
        {"contestant": "a", "goodput": {"25": rate}, "tried": [{"rate": 50.0}, {"rate": lowest}]} for rate in rounds
    ]


@pytest.mark.parametrize(
    ("rounds", "wanted"),
    [
        ((30.0,), "30"),
        ((30.0, 50.0), "40"),
        ((0.0,), "< 2"),
        ((0.0, 0.0, 30.0), "< 2"),
        ((0.0, 30.0), "< 16"),  # (below 2 + 30) / 2
        ((0.0, 30.0, 40.0), "30"),
    ],
)
def test_a_goodput_that_no_load_was_low_enough_for_is_below_the_lowest(rounds, wanted):
    assert str(median_goodput(searches_of(*rounds), "a", 0.025)) == wanted
    assert str(median_goodput(searches_of(0.0, lowest=9.16), "a", 0.025)) == "< 10"


def test_what_is_only_known_to_be_below_makes_bounds_of_ratios():
    known, low, high = Goodput(30.0), Goodput(2.0, below=True), Goodput(60.0, below=True)
    assert known.over(Goodput(20.0)) == "1.50x" and known.over(low) == "more than 15.00x"
    assert low.over(known) == "less than 0.07x" and low.over(high) == high.over(low) == ""


def test_all_contestants_are_tried_at_the_same_loads_down_to_the_lowest(monkeypatch, tmp_path):
    """ONNX Runtime, which answers 100 requests per second at most, is tried at the loads of who answers 400; the server
    alone, which no model waits for, at none."""
    tried = {}

    def search(bench, contestant, kind, rates, seed):
        tried[contestant] = rates
        good = {REFILL: 200.0, NO_REFILL: 100.0, ONNX: 0.0}[contestant]
        return {"contestant": contestant, "goodput": {f"{1e3 * limit:g}": good for limit in LIMITS}} | {
            "tried": [{"rate": rates[0]}]
        }

    def at_equal_load(bench, contestant, kind, rate, seed):
        return {"contestant": contestant, "cpu_seconds_per_1000": 1.0}

    monkeypatch.setattr(serve, "search", search)
    monkeypatch.setattr(serve, "at_equal_load", at_equal_load)
    monkeypatch.setattr(serve, "predict_case", lambda *facts: facts[-1])
    capacities = {REFILL: 400.0, NO_REFILL: 300.0, ONNX: 100.0, SHELL: 900.0}
    bench = Bench(dict.fromkeys(capacities), Subject("a model", tmp_path, tmp_path, ["a"], None), send, 2.5)
    facts = Facts([Text(3, 1)], ["yes"], ["yes"], Machine(LayerCost((1,), (1.0,)), (1,)))
    checks = {name: {"capacity": rate} for name, rate in capacities.items()}
    options = argparse.Namespace(rounds=1, lowest=LOWEST)
    case = serve.measure_case(bench, "Poisson", facts, checks, options)
    assert tried.keys() == {REFILL, NO_REFILL, ONNX}
    assert tried[REFILL] == tried[NO_REFILL] == tried[ONNX]
    assert tried[ONNX][-1] == pytest.approx(440.0) and LOWEST / STEP < tried[ONNX][0] <= LOWEST
    # Equal loads are 0.8 of a goodput, or of what is answered at most where there is none.
    assert {one["rate"] for one in case["equal"]} == {80.0} and case["prediction"] == [80.0]


# The page.


def case_of(refill, no_refill, onnx):
    searched = {REFILL: refill, NO_REFILL: no_refill, ONNX: onnx}
    latencies = {REFILL: 0.002, NO_REFILL: 0.004, ONNX: 0.008, SHELL: 0.001}
    capacities = {REFILL: 500.0, NO_REFILL: 450.0, ONNX: 200.0, SHELL: 800.0}
    cpu_seconds = {REFILL: 5.0, NO_REFILL: 5.5, ONNX: 17.0, SHELL: 2.0}
    both = {"with refill": {"25": 300.0, "100": 400.0}, "without refill": {"25": 200.0, "100": 0.0}}
    return {
        "subject": "a model",
        "arrivals": "Poisson",
        "planned": False,
        "mean_tokens": 20.0,
        "mean_exit_layer": 2.0,
        "depth": 6,
        "checks": {
            name: {"texts": 10, "labels_of_exits": 10, "labels_of_full_depth": 9, "capacity": capacity}
            for name, capacity in capacities.items()
        },
        "searches": [
            {"contestant": name, "goodput": {"25": value / 2, "100": value}, "tried": [{"rate": 2.0}]}
            for name, value in searched.items()
        ],
        "equal": [
            {
                "contestant": name,
                "rate": rate,
                "overloaded": name == ONNX and rate == 150.0,
                "cpu_seconds_per_1000": cpu_seconds[name] * 100.0 / rate,
                **{f"p{percent}": latencies[name] for percent in (50, 95, 99)},
            }
            for name in latencies
            for rate in (100.0, 150.0)
        ],
        "generator": {"cpu_seconds_per_1000": 0.2, "p99_lateness": 0.001},
        "prediction": {
            "shell_seconds": 1e-3,
            "cost": {"tokens": [16, 64], "seconds": [0.003, 0.004], "step_seconds": 0.002, "full": 64},
            "goodput": {"this machine": both},
            "latencies": [
                {"rate": rate, "with refill": {"p50": 0.003}, "without refill": {"p50": 0.004}}
                for rate in (100.0, 150.0)
            ],
        },
    }


def test_the_page_holds_the_marks_against_what_was_measured():
    text = "\n\n".join(case_parts(case_of(300.0, 200.0, 0.0), {"a peer": "no module"}))
    assert "| fastbert serve | 150 (1.50x) | 300 (1.50x) | 500 | 90.0% |" in text
    assert "| ONNX Runtime int8, full depth | < 2 (less than 0.02x) | < 2 (less than 0.01x) |" in text
    assert "goodput over no refill: 1.50x within 25 ms, 1.50x within 100 ms (mark 1.5x)" in text
    assert "goodput over ONNX Runtime int8: more than 75.00x within 25 ms, more than 150.00x within 100 ms" in text
    assert f"0.50 of that without refill (mark {MARKS['p50 over no refill']:g}; simulated 0.75)" in text
    assert "overloaded" in text and "300 and 200 (1.50x)" in text and "400 and none |" in text
    assert "| 500 | - |" in "".join(case_parts(case_of(300.0, 200.0, 0.0) | {"planned": True}, {}))
    assert "a peer: not available: no module" in text


def test_goodputs_of_which_none_was_found_have_no_ratio():
    text = "\n\n".join(case_parts(case_of(0.0, 0.0, 0.0), {}))
    assert "| fastbert serve | < 2 | < 2 | 500 |" in text
    assert "goodput over no refill: unknown, < 2 and < 2, within 25 ms" in text


def test_what_shrinking_batches_lose_is_of_their_layers():
    """A step of 3 and of 4 ms, of which 2 ms are the step's: 1 ms for 16 tokens, and 2 ms for 64."""
    text = verdict(case_of(300.0, 200.0, 100.0))
    assert "less the 2 ms that the schedule counts for each step, a token costs 31.2 us of a layer there" in text
    assert "and 62.5 us in a step of 16 tokens, so that batches which shrink lose 2.0x at most" in text


def test_a_file_without_the_time_of_a_step_gets_that_of_the_program_and_the_page_says_so(monkeypatch):
    """Of steps of 3 and of 4 ms 2.5 ms are the step's here: 0.5 ms for 16 tokens, and 1.5 ms for 64."""
    monkeypatch.setattr("serving.report.STEP_SECONDS", 2.5e-3)
    case = case_of(300.0, 200.0, 100.0)
    assert "lose 2.0x at most" in verdict(case) and "today" not in verdict(case)
    del case["prediction"]["cost"]["step_seconds"]
    said = "less the 2.5 ms that the schedule counts for each step today (the result file is older, and does not say), "
    assert said in verdict(case) and "lose 1.3x at most" in verdict(case)


def test_a_mark_over_onnx_runtime_that_is_missed_has_its_reason():
    """ONNX Runtime has a goodput of 60 and 120: 500 / 60 and 500 / 120; (17 - 2) / (5 - 2) seconds, 6 / 2 layers."""
    text = verdict(case_of(300.0, 200.0, 120.0))
    assert "ours answers 500 requests per second when there is always enough to do, however long they take" in text
    assert "take: 8.33x of ONNX Runtime's goodput within 25 ms; with a model that costs nothing the server" in text
    assert "take: 4.17x of ONNX Runtime's goodput within 100 ms, less than the mark even where nobody minds" in text
    assert "the server alone answers 800, 6.67x" in text
    assert "at 100 requests/s the server takes 2.0 CPU seconds per 1,000 texts for either" in text
    assert "our model 3.0 and ONNX Runtime 15.0: 5.00x, of which texts that leave" in text
    assert "behind layer 2.00 of 6 on average are 3.00x, and all else 1.67x" in text
    noisy = case_of(300.0, 200.0, 120.0)
    noisy["checks"][SHELL]["capacity"] = 499.0
    assert "4.17x" in verdict(noisy) and "the server alone answers" not in verdict(noisy)
    without = case_of(300.0, 200.0, 0.0)
    without["equal"] = [one for one in without["equal"] if one["rate"] == 150.0]
    assert "ONNX Runtime's goodput" not in verdict(without) and "CPU seconds" not in verdict(without)


def test_results_of_random_weights_alone_have_a_name_of_their_own(tmp_path):
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.tsv").touch()
    data = ["--data", str(tmp_path)]
    names = [
        serve.file_name(serve.parse_arguments(options))
        for options in (data, [], [*data, "--shapes", "BERT-base"], [*data, "--shapes", "BERT-base", "MiniLM-L6"])
    ]
    assert [name.partition("_cpu_")[0] for name in names] == ["serving", "serving_random", "serving_random", "serving"]


def test_options_that_measure_nothing_are_refused(capsys, tmp_path):
    for bad in (["--rounds", "0"], ["--seconds", "0"], ["--data", str(tmp_path)]):
        with pytest.raises(SystemExit):
            serve.parse_arguments(bad)
    assert "choose another --data or --task" in capsys.readouterr().err
    assert serve.parse_arguments(["--quick"]).shapes == ["tiny"]

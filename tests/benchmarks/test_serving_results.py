"""What comes of the benchmark of the server: loads that all are tried at, goodput, the page, names of files."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math

import pytest

import serve
from fastbert_kernels.engine.layer_cost import LayerCost
from serving.load import Outcome, send
from serving.measure import Bench, search
from serving.names import NO_REFILL, ONNX, REFILL, SHELL
from serving.report import MARKS, case_parts, latency_table, page, verdict
from serving.rounds import goodputs, over, rate_in_words, told
from serving.search import LATE_SHARE, LOWEST, STEP, goodput, grid, percentile
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


def searches_of(*rounds, name="a", lowest=2.0):
    return [
        {"round": number, "contestant": name, "goodput": {"25": rate, "100": rate}}
        | {"tried": [{"rate": 50.0}, {"rate": lowest}]}
        for number, rate in enumerate(rounds)
    ]


@pytest.mark.parametrize(
    ("rounds", "wanted"),
    [
        ((30.0,), "30"),
        ((30.0, 50.0), "30 to 50"),  # the middle of two is no median
        ((0.0,), "< 2"),
        ((0.0, 0.0, 0.0), "< 2"),
        ((0.0, 30.0), "< 2 to 30"),
        ((30.0, 0.0, 0.0), "< 2, < 2 to 30"),
        ((40.0, 0.0, 30.0), "30, < 2 to 40"),
        ((0.0, 0.0, 30.0, 40.0), "15 to 16, < 2 to 40"),  # (0 to 2 + 30) / 2
    ],
)
def test_goodputs_of_rounds_are_told_as_median_and_range(rounds, wanted):
    found = goodputs([*searches_of(*rounds), *searches_of(7.0, name="b")], "a", 0.025)
    assert told([*found.values()], rate_in_words) == wanted


def test_a_bound_is_rounded_up():
    """And few requests have a decimal: the lowest load may be good in one round, and not in the other."""
    for lowest, wanted in ((9.13, "< 9.2 to 9.1"), (17.4, "< 18 to 17")):
        found = goodputs(searches_of(lowest, 0.0, lowest=lowest), "a", 0.025)
        assert told([*found.values()], rate_in_words) == wanted


@pytest.mark.parametrize(
    ("own", "base", "wanted"),
    [
        ((30.0,), (20.0,), "1.50x"),
        ((68.0, 120.0), (100.0, 100.0), "0.68x to 1.20x"),
        ((10.0, 40.0, 90.0), (20.0, 40.0, 30.0), "1.00x, 0.50x to 3.00x"),  # the ratio of the medians is 4 / 3
        ((30.0,), (0.0,), "more than 15.00x"),
        ((0.0,), (30.0,), "less than 0.07x"),
        ((0.0,), (0.0,), ""),
        ((0.0, 0.0), (0.0, 1.0), "less than 2.00x, unknown in 1 of 2 rounds"),
        ((30.0, 30.0), (0.0, 20.0), "1.50x to more than 15.00x"),
        ((30.0, 30.0), (0.0, 1.0), "between 15.00x and 30.00x to more than 30.00x"),
        ((0.0, 0.0), (30.0, 40.0), "less than 0.05x to less than 0.07x"),
    ],
)
def test_ratios_are_of_goodputs_within_a_round(own, base, wanted):
    searches = [*searches_of(*own), *searches_of(*base, name="b")]
    # The order of a round's contestants is another one in each.
    assert over(goodputs(searches, "a", 0.025), goodputs(searches[::-1], "b", 0.025)) == wanted


@pytest.mark.parametrize(
    ("rounds", "wanted"),
    [((30.0,), 24.0), ((0.0, 30.0), 24.0), ((0.0, 20.0, 0.0, 30.0), 20.0), ((0.0, 0.0), 1.6)],
)
def test_the_equal_load_is_one_of_which_something_is_known(rounds, wanted):
    assert serve.equal_load(searches_of(*rounds), "a") == wanted


@dataclasses.dataclass
class Stalling:
    """A bench whose server carries `most` requests per second, but stands still at the tries whose numbers are told."""

    most: float
    stalls: tuple[int, ...] = ()
    offered: list[tuple[float, int]] = dataclasses.field(default_factory=list)

    def offer(self, contestant, kind, rate, seed, hopeless):
        good = rate <= self.most and len(self.offered) not in self.stalls
        self.offered.append((rate, seed))
        return Outcome([0.01 if good else 9.0] * 100, gave_up=not good), 0.0


def test_a_stall_does_not_pull_a_search_down():
    rates = [10.0, 20.0, 30.0, 40.0, 50.0]
    calm, disturbed, down = Stalling(40.0), Stalling(40.0, stalls=(0,)), Stalling(40.0, stalls=(0, 1))
    found = [search(bench, "a", "Poisson", rates, 3)["goodput"] for bench in (calm, disturbed, down)]
    assert found == [{"25": 40.0, "100": 40.0}] * 2 + [{"25": 20.0, "100": 20.0}]
    (first, seed), (second, other) = disturbed.offered[:2]
    assert first == second == 30.0 and seed == 3 != other
    assert [rate for rate, _ in calm.offered] == [30.0, 40.0, 50.0, 50.0, 20.0]  # a good one is believed at once


def test_all_tries_are_kept_with_the_search():
    found = search(Stalling(20.0, stalls=(0,)), "a", "bursty", [10.0, 20.0, 30.0], 0)
    assert found["goodput"] == {"25": 20.0, "100": 20.0}
    kept = [(one["rate"], one["gave_up"]) for one in found["tried"]]
    assert kept == [(10.0, False), (20.0, True), (20.0, False), (30.0, True), (30.0, True)]


CAPACITIES = {REFILL: 400.0, NO_REFILL: 300.0, ONNX: 100.0, SHELL: 900.0}


def measured_case(monkeypatch, tmp_path, names, tried):
    """A case whose contestants are searched and measured without servers; `tried` gets the loads of each."""

    def search(bench, contestant, kind, rates, seed):
        tried[contestant] = rates
        return searches_of({REFILL: 200.0, NO_REFILL: 100.0, ONNX: 0.0}[contestant], name=contestant)[0]

    def at_equal_load(bench, contestant, kind, rate, seed):
        return {"contestant": contestant, "cpu_seconds_per_1000": 1.0}

    monkeypatch.setattr(serve, "search", search)
    monkeypatch.setattr(serve, "at_equal_load", at_equal_load)
    monkeypatch.setattr(serve, "predict_case", lambda *facts: facts[-1])
    bench = Bench(dict.fromkeys(names), Subject("a model", tmp_path, tmp_path, ["a"], None), send, 2.5)
    facts = Facts([Text(3, 1)], ["yes"], ["yes"], Machine(LayerCost((1,), (1.0,)), (1,)))
    checks = {name: {"capacity": CAPACITIES[name]} for name in names}
    return serve.measure_case(bench, "Poisson", facts, checks, argparse.Namespace(rounds=1, lowest=LOWEST))


def test_all_contestants_are_tried_at_the_same_loads_down_to_the_lowest(monkeypatch, tmp_path):
    """ONNX Runtime, which answers 100 requests per second at most, is tried at the loads of who answers 400; the server
    alone, which no model waits for, at none."""
    tried = {}
    case = measured_case(monkeypatch, tmp_path, CAPACITIES, tried)
    assert tried.keys() == {REFILL, NO_REFILL, ONNX}
    assert tried[REFILL] == tried[NO_REFILL] == tried[ONNX]
    assert tried[ONNX][-1] == pytest.approx(440.0) and LOWEST / STEP < tried[ONNX][0] <= LOWEST
    # Equal loads are 0.8 of a goodput, or of what it is below where there is none.
    assert {one["rate"] for one in case["equal"]} == {80.0, 1.6} and case["prediction"] == [1.6, 80.0]


def test_without_those_who_carry_the_equal_load_it_is_our_own(monkeypatch, tmp_path):
    case = measured_case(monkeypatch, tmp_path, [SHELL, REFILL], {})
    assert {(one["contestant"], one["rate"]) for one in case["equal"]} == {(REFILL, 160.0), (SHELL, 160.0)}


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
            {"round": 0, "contestant": name, "goodput": {"25": value / 2, "100": value}, "tried": [{"rate": 2.0}]}
            for name, value in searched.items()
        ],
        "equal": [
            {
                "round": 0,
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
    assert "goodput over no refill: within 25 ms 1.50x; within 100 ms 1.50x (mark 1.5x)" in text
    assert "goodput over ONNX Runtime int8: within 25 ms more than 75.00x; within 100 ms more than 150.00x" in text
    assert f"0.50x of that without refill (mark {MARKS['p50 over no refill']:g}x; simulated 0.75x)" in text
    assert "overloaded" in text and "300 and 200 (1.50x)" in text and "400 and none |" in text
    assert "| 500 | - |" in "".join(case_parts(case_of(300.0, 200.0, 0.0) | {"planned": True}, {}))
    assert "a peer: not available: no module" in text


def test_the_page_tells_how_far_two_rounds_are_apart():
    """Refill is behind in one round, and ahead in the other: no direction."""
    first, second = case_of(136.0, 200.0, 100.0), case_of(240.0, 200.0, 200.0)
    for one in (*second["searches"], *second["equal"]):
        one["round"] = 1
    for one in second["equal"]:
        one["p50"] *= 3 if one["contestant"] == REFILL else 1
    both = {name: first[name] + second[name] for name in ("searches", "equal")}
    text = "\n\n".join(case_parts(first | both, {}))
    assert "| fastbert serve | 68 to 120 (0.68x to 1.20x) | 136 to 240 (0.68x to 1.20x) |" in text
    assert "| the same without refill | 100 | 200 |" in text
    assert "goodput over no refill: within 25 ms 0.68x to 1.20x; within 100 ms 0.68x to 1.20x (mark 1.5x)" in text
    assert "p50 at 100 requests/s: 0.50x to 1.50x of that without refill" in text
    assert "take: 2.50x to 5.00x of ONNX Runtime's goodput within 100 ms; with a model that costs" in text  # 5x is met
    assert "the server alone answers 800, 4.00x to 8.00x" in text


@pytest.mark.parametrize(
    ("loads", "wanted"),
    [((1.6, 2.4), ("1.6", "2.4")), ((2.4, 82.4), ("2.4", "82")), ((81.6, 82.4), ("81.6", "82.4"))],
)
def test_every_equal_load_has_columns_of_its_own(loads, wanted):
    case = case_of(300.0, 200.0, 100.0)
    named = dict(zip((100.0, 150.0), loads, strict=True))
    for one in (*case["equal"], *case["prediction"]["latencies"]):
        one["rate"] = named[one["rate"]]
    first, second = wanted
    head = latency_table(case).splitlines()[0]
    assert f"| {first} requests/s | CPU s per 1,000 at {first}/s | {second} requests/s | CPU s per 1,000" in head
    assert all(f"p50 at {load} requests/s" in verdict(case) for load in wanted)


def test_a_case_of_ours_alone_has_a_page():
    case = case_of(300.0, 200.0, 100.0)
    ours = {REFILL, SHELL}
    case["checks"] = {name: check for name, check in case["checks"].items() if name in ours}
    for part in ("searches", "equal"):
        case[part] = [one for one in case[part] if one["contestant"] in ours]
    text = "\n\n".join(case_parts(case, {}))
    assert "| fastbert serve | 150 | 300 | 500 |" in text and "goodput over" not in text and "p50 at" not in text


def test_the_page_says_how_often_a_load_was_tried_where_the_file_does():
    result = {"load": [0.0], "dtype": "int8", "rounds": 2, "seconds": 2.5, "http": "uvicorn", "cases": []}
    assert "tries" not in page(result)
    assert "A load is too high where each of 2 tries was" in page(result | {"tries": 2})


def test_goodputs_of_which_none_was_found_have_no_ratio():
    text = "\n\n".join(case_parts(case_of(0.0, 0.0, 0.0), {}))
    assert "| fastbert serve | < 2 | < 2 | 500 |" in text
    assert "goodput over no refill: within 25 ms unknown (< 2 and < 2); within" in text


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
    for bad in (["--rounds", "0"], ["--seconds", "0"], ["--contestants", SHELL], ["--data", str(tmp_path)]):
        with pytest.raises(SystemExit):
            serve.parse_arguments(bad)
    said = capsys.readouterr().err
    assert "nothing to measure of the server alone" in said and "choose another --data or --task" in said
    assert serve.parse_arguments(["--contestants", REFILL, REFILL]).contestants == [REFILL, SHELL]
    assert serve.parse_arguments(["--quick"]).shapes == ["tiny"]


def test_contestants_none_of_whom_is_there_end_the_run_before_it_measures(monkeypatch, tmp_path):
    @contextlib.contextmanager
    def running(names, subject, dtype):
        assert names == [ONNX, SHELL]
        yield {SHELL: None}, {ONNX: "no module"}

    class Silent:
        stop = staticmethod(lambda: None)

    monkeypatch.setattr(serve, "running", running)
    monkeypatch.setattr(serve, "Generator", Silent)
    monkeypatch.setattr(serve, "subject_of", lambda *what: Subject("a model", tmp_path, tmp_path, ["a"], None))
    monkeypatch.setattr(serve, "facts_of", lambda *what: None)
    with pytest.raises(SystemExit, match="nobody to measure: ONNX Runtime int8, full depth: no module"):
        serve.main(["--contestants", ONNX, "--out", str(tmp_path)])

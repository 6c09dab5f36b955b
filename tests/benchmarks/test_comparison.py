"""The comparison: planned exits, checks, tables, and every peer that is installed on a tiny model."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import ssl
import statistics
import sys

import pytest
import torch

import comparison
import peers
from comparing import chart, measure, report, workload
from comparing.cases import FEWEST_ROUNDS, MOST_ROUNDS, Budget, Case, make_cases
from comparing.ratios import Ratio
from families import result_name, results_by_family
from harness import RESULTS
from peers import transformers_eager
from peers.contestant import FULL_DEPTH_PEER, OURS, Answer, Contestant, Entry, NotAvailable, Request, Setup

DEVICE = torch.device("cpu")
CASE = Case("tiny", 2, "mixed", (4.0, 5.8))


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return Setup(workload.make_random_model("tiny"), DEVICE, torch.get_num_threads(), tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def reference(setup):
    samples = workload.random_samples(CASE.samples, CASE.kind, setup.model, seed=3)
    return samples, workload.reference_answers(setup.model, samples, batch=4)


def entry_named(name):
    return next(entry for entry in peers.ENTRIES if entry.name == name)


def measured(setup, *names):
    contestants = {name: (entry_named(name), entry_named(name).build(setup)) for name in names}
    return measure.measure_case(CASE, setup, contestants, None, lambda seconds: 2, lambda what: None)


# Schedules and samples.


@pytest.mark.parametrize("depth", [6, 12])
@pytest.mark.parametrize("mean", [2.8, 4.0, 5.8])
@pytest.mark.parametrize("count", [16, 128])
def test_plan_has_the_wanted_mean(depth, mean, count):
    plan = workload.plan_exits(count, depth, mean * depth / 12)
    assert plan.shape == (count,) and plan.min() >= 1 and plan.max() <= depth
    assert plan.double().mean().item() == pytest.approx(mean * depth / 12, abs=0.1)
    assert torch.equal(plan, workload.plan_exits(count, depth, mean * depth / 12))


def test_plan_at_the_ends():
    assert workload.plan_exits(5, 12, 1.0).tolist() == [1] * 5
    assert workload.plan_exits(5, 12, 12.0).tolist() == [12] * 5


@pytest.mark.parametrize("uncertainty", [0.99, 0.5, 0.05])
def test_logit_difference_inverts_the_normalised_entropy(uncertainty):
    p = 1 / (1 + math.exp(-workload._logit_difference(uncertainty)))
    assert -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) == pytest.approx(uncertainty, abs=1e-9)


def test_lengths_follow_the_distribution(setup):
    samples = workload.random_samples(64, "mixed", setup.model, seed=0)
    assert samples.lengths.double().mean().item() == pytest.approx(45, abs=3)
    assert samples.lengths.max() <= 128
    assert workload.random_samples(3, "full", setup.model, seed=0).lengths.tolist() == [128] * 3


def test_requests_are_padded_to_their_longest():
    samples = workload.Samples([[5, 6, 7], [8], [9, 10]])
    first, second = samples.requests(2, DEVICE, torch.tensor([0.1, 0.2, 0.3]))
    assert first.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert first.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert second.input_ids.tolist() == [[9, 10]] and second.speed.tolist() == pytest.approx([0.3])


@torch.inference_mode()
def test_planned_exits_come_about_by_speed_alone(setup, reference):
    samples, answers = reference
    exits = workload.planned_exits(answers.uncertainty, mean_depth=5.8)
    assert len(set(exits.exit_layer.tolist())) > 2
    (request,) = samples.requests(len(samples.token_ids), DEVICE, exits.speed)
    output = setup.model(request.input_ids, request.attention_mask, speed=request.speed)
    assert torch.equal(output.exit_layer, exits.exit_layer)


def test_plan_that_no_speed_gives_is_refused():
    with pytest.raises(RuntimeError, match="does not fall"):
        workload.planned_exits(torch.full((8, 12), 0.5), mean_depth=5.8)


def test_exits_of_a_trained_model():
    exits = workload.exits_at_speed(torch.tensor([[0.9, 0.4, 0.1], [0.2, 0.9, 0.9], [0.9, 0.9, 0.9]]), 0.5)
    assert exits.exit_layer.tolist() == [2, 1, 3] and exits.label == "Speed 0.5" and not exits.planned


# Configurations and their share of the time.


def test_default_configurations():
    cases = make_cases(comparison.parse_arguments(["--device", "cpu"]))
    assert {case.shape for case in cases} == {"BERT-base", "MiniLM-L6"}
    assert {case.batch for case in cases} == {1, 8, 32} and {case.kind for case in cases} == {"mixed", "full"}


def test_full_grid_and_choices():
    full = make_cases(comparison.parse_arguments(["--device", "cpu", "--full"]))
    assert len(full) == 2 * 4 * 2 and all(case.depths == (2.8, 4.0, 5.8) for case in full)
    chosen = ["--device", "cpu", "--shapes", "BERT-base", "--batches", "8", "--lengths", "full", "--depths", "2"]
    assert make_cases(comparison.parse_arguments(chosen)) == [Case("BERT-base", 8, "full", (2.0,))]
    trained = make_cases(comparison.parse_arguments(["--model", "folder", "--shapes", "model", "--batches", "8"]))
    assert trained == [Case("model", 8, "texts", (0.1, 0.5))]


def test_budget_gives_rounds_within_bounds():
    budget = Budget(minutes=1, rounds=None, costs=[3.0, 1.0])
    first = budget.start_case()
    assert first(1e9) == FEWEST_ROUNDS and first(1e-9) == MOST_ROUNDS and 40 <= 4 * first(4) <= 45
    assert Budget(minutes=1, rounds=7, costs=[1.0]).start_case()(1e9) == 7


# Checks and figures.


def fake_run(exits=None, dtype="float32", **contestant):
    entry = Entry("some peer", OURS, dtype, lambda setup: None)
    return measure.Run(entry, Contestant(lambda request: None, **contestant), exits)


def test_check_compares_with_the_exit_that_was_taken(reference):
    _, answers = reference
    exits = workload.planned_exits(answers.uncertainty, 5.8)
    rows = torch.arange(len(exits.exit_layer))
    right = answers.logits[rows, exits.exit_layer - 1]
    verdict = measure.check(fake_run(exits), Answer(right, exits.exit_layer), answers, scale=1.0)
    assert verdict["agrees"] and verdict["logit_error"] == 0 and verdict["same_labels"] == 1
    wrong = exits.exit_layer.clone()
    wrong[0] = wrong[0] % 4 + 1
    verdict = measure.check(fake_run(exits), Answer(answers.logits[rows, wrong - 1], wrong), answers, scale=1.0)
    assert not verdict["agrees"] and verdict["other_exit_layers"] == 1


@pytest.mark.parametrize("error", [0.5, math.nan])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_wrong_logits_do_not_agree(reference, dtype, error):
    _, answers = reference
    logits = answers.logits[:, -1].clone()
    logits[2, 0] += error
    assert not measure.check(fake_run(dtype=dtype), Answer(logits), answers, scale=0.125)["agrees"]


def test_static_model_is_compared_with_its_own_exit(reference):
    _, answers = reference
    verdict = measure.check(fake_run(layers=2), Answer(answers.logits[:, 1]), answers, scale=1.0)
    assert verdict["agrees"] and set(verdict["exit_layers"]) == {2}


def test_ties_of_a_trained_model_may_leave_elsewhere():
    uncertainty = torch.tensor([[0.501, 0.2], [0.2, 0.2]])
    answers = Answer(torch.zeros(2, 2, 2), uncertainty=uncertainty)
    exits = workload.exits_at_speed(uncertainty, 0.5)
    answer = Answer(torch.zeros(2, 2), torch.tensor([1, 1]))
    assert not measure.check(fake_run(exits), answer, answers, scale=1.0)["agrees"]
    assert measure.check(fake_run(exits, dtype="bfloat16"), answer, answers, scale=1.0)["agrees"]


def test_no_speedup_where_outputs_disagree(setup):
    case = measured(setup, peers.BASELINE, "ours unpatched float32")
    rows = {(row["contestant"], row["run"]): row for row in case["rows"]}
    good = rows["ours unpatched float32", "mean depth 4 of 12"]
    assert good["agrees"] and good["speedup"] > 0 and good["realisation"] > 0 and good["flops_speedup"] > 1
    assert case["failed"] == {} and len(good["seconds"]) == 2

    class Wrong:
        quantiles = (1.0, 1.0, 1.0)
        rounds = (1.0,)

    bad = {key: row | {"agrees": False} for key, row in rows.items()}
    run = dataclasses.replace(fake_run(), entry=entry_named(peers.BASELINE))
    assert "speedup" not in measure.figures(run, bad, {key: Wrong() for key in rows}, samples=4)
    (line,) = report.table_rows({"rows": [good | {"agrees": False}]}, peers.BASELINE)
    assert "outputs disagree" in line.values()


def test_ours_against_the_fastest_peer():
    def row(contestant, group, dtype, seconds, agrees=True):
        fields = {"contestant": contestant, "group": group, "dtype": dtype, "run": "full depth"}
        return fields | {"seconds": seconds, "agrees": agrees}

    rows = [
        row("slow", FULL_DEPTH_PEER, "float32", [8.0, 6.0]),
        row("fast", FULL_DEPTH_PEER, "int8", [4.0, 2.0], agrees=False),
        row("ours patched float32", OURS, "float32", [2.0, 2.0]),
        row("ours patched int8", OURS, "int8", [1.0, 1.0], agrees=False),
        row("ours unpatched float32", OURS, "float32", [1.0, 1.0]),
    ]
    assert report.against_fastest({"rows": rows}) == [
        "ours patched float32, full depth: 3.50x (3.20 to 3.80) the fastest full-depth peer in float32 (slow), "
        "1.50x (1.20 to 1.80) the fastest full-depth peer in any dtype (fast, whose outputs disagree)"
    ]


def test_spread_is_of_the_ratios_within_a_round():
    """Both contestants slow down together by a factor of ten, and their ratio moves by a tenth."""
    slow, fast = {"seconds": [2.0, 20.0, 0.2, 2.2, 1.8]}, {"seconds": [1.0, 10.0, 0.1, 1.0, 1.0]}
    assert str(Ratio.of(slow, fast)) == "2.00x (1.96 to 2.04)"
    assert str(Ratio.of({"seconds": [3.0]}, {"seconds": [2.0]})) == "1.50x (1.50 to 1.50)"


def test_committed_results_render_with_the_spread():
    for result in results_by_family(RESULTS, "comparison").values():
        rows = {(row["contestant"], row["run"]): row for row in result["configurations"][0]["rows"]}
        base, ours = rows[peers.BASELINE, "full depth"], rows["ours patched float32", "full depth"]
        ratios = [slow / fast for slow, fast in zip(base["seconds"], ours["seconds"], strict=True)]
        first = report.markdown(result).split("## ")[1].splitlines()
        (line,) = (line for line in first if line.startswith("| ours patched float32 | full depth"))
        low, high = line.split(f"| {statistics.median(ratios):.2f}x (")[1].split(")")[0].split(" to ")
        assert min(ratios) - 0.01 <= float(low) <= float(high) <= max(ratios) + 0.01


def test_a_contestant_that_fails_leaves_the_others(setup):
    def fail(request):
        raise MemoryError("too large")

    contestants = {
        peers.BASELINE: (entry_named(peers.BASELINE), entry_named(peers.BASELINE).build(setup)),
        "some peer": (fake_run().entry, Contestant(fail)),
    }
    case = measure.measure_case(CASE, setup, contestants, None, lambda seconds: 1, lambda what: None)
    assert case["failed"] == {"some peer, full depth": "MemoryError: too large"} and len(case["rows"]) == 1


# Contestants.


@pytest.mark.parametrize("name", [entry.name for entry in peers.ENTRIES if "cpu" in entry.devices])
def test_contestant_gives_the_reference_answers(setup, reference, monkeypatch, name):
    monkeypatch.setattr(transformers_eager, "computes_in_bfloat16", lambda: True)  # slow elsewhere, but not wrong
    if name.startswith("torch.compile"):
        pytest.skip("compiles for half a minute; benchmarks/comparison.py --quick does it")
    entry = entry_named(name)
    try:
        contestant = entry.build(setup)
        with torch.inference_mode():
            contestant.run(Request(torch.ones(1, 3).long(), torch.ones(1, 3).long(), torch.full((1,), 0.5)))
    except NotAvailable as reason:
        pytest.skip(str(reason))
    samples, answers = reference
    plans = [workload.planned_exits(answers.uncertainty, 5.8)] if contestant.adaptive else []
    with torch.inference_mode():
        for exits in [None] * contestant.full_depth + plans:
            batch = contestant.largest_batch or 4
            requests = list(samples.requests(batch, DEVICE, None if exits is None else exits.speed))
            answer, peak, seconds = measure.first_answer(contestant, requests, DEVICE)
            run = measure.Run(entry, contestant, exits)
            verdict = measure.check(run, answer, answers, workload.CLASSIFIER_SCALE)
            assert verdict["agrees"], verdict
            assert (peak is None or peak >= 0) and seconds > 0


def test_pypi_package_leaves_the_process_as_it_was(setup):
    home, context = os.environ.get("HOME"), ssl._create_default_https_context
    try:
        entry_named("PyPI fastbert float32").build(setup)
    except NotAvailable as reason:
        pytest.skip(str(reason))
    assert os.environ.get("HOME") == home and ssl._create_default_https_context is context


@pytest.mark.parametrize("name", ["Transformers eager bfloat16", "torch.compile bfloat16"])
def test_bfloat16_of_pytorch_is_left_out_where_it_is_emulated(setup, monkeypatch, name):
    monkeypatch.setattr(transformers_eager, "computes_in_bfloat16", lambda: False)
    with pytest.raises(NotAvailable, match="no instructions for bfloat16"):
        entry_named(name).build(setup)


def test_missing_contestants_are_named_with_the_reason(setup, monkeypatch):
    def missing(setup):
        raise NotAvailable("not there\nmore of it")

    entry = Entry("some peer", OURS, "float32", missing)
    monkeypatch.setattr(peers, "ENTRIES", (entry_named(peers.BASELINE), entry))
    contestants, record = comparison.build_contestants(peers.ENTRIES, setup, ["some"], lambda what: None)
    assert list(contestants) == [peers.BASELINE] and record["some peer"] == {"not_available": "not there"}
    assert report.missing({"contestants": {"tiny": record}}) == ["tiny: some peer: not available: not there"]


# The command.

NAME = result_name("comparison")


def run_command(monkeypatch, out, *arguments):
    names = (peers.BASELINE, "ours unpatched float32", "ours patched float32")
    monkeypatch.setattr(peers, "ENTRIES", tuple(map(entry_named, names)))
    chosen = ["--device", "cpu", "--rounds", "2", "--out", str(out), *arguments]
    return comparison.main(chosen)


def test_command_writes_table_json_and_chart(monkeypatch, tmp_path):
    arguments = ["--shapes", "tiny", "--batches", "1", "2", "--lengths", "mixed"]
    assert run_command(monkeypatch, tmp_path, *arguments) == 0
    result = json.loads((tmp_path / f"{NAME}.json").read_text())
    assert not result["partial"] and len(result["configurations"]) == 2
    page = (tmp_path / f"{NAME}.md").read_text()
    assert "ours patched float32" in page and "the fastest full-depth peer in any dtype" in page
    assert f"Load of the machine over 1, 5 and 15 minutes before the run: {result['load'][0]:.1f}, " in page
    assert (tmp_path / f"{NAME}.png").read_bytes().startswith(b"\x89PNG")
    assert [row["run"] for row in chart.bars(result["configurations"][0])].count("mean depth 4 of 12") == 2


def test_interrupted_command_keeps_what_was_measured(monkeypatch, tmp_path):
    measure_case = comparison.measure_case
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure_case(*arguments)

    monkeypatch.setattr(comparison, "measure_case", interrupted)
    arguments = ["--shapes", "tiny", "--batches", "1", "2", "--lengths", "mixed"]
    assert run_command(monkeypatch, tmp_path, *arguments) == 130
    result = json.loads((tmp_path / f"{NAME}.json").read_text())
    assert result["partial"] and len(result["configurations"]) == 1
    page = (tmp_path / f"{NAME}.md").read_text()
    assert "Partial: 1 of 2 configurations; missing: tiny, batch 2, mixed" in page


def test_plain_lines_without_rich(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert run_command(monkeypatch, tmp_path, "--quick") == 0
    assert "| ours patched float32 | mean depth 4 of 12 |" in capsys.readouterr().out


def test_quick_writes_nothing(monkeypatch, tmp_path):
    assert run_command(monkeypatch, tmp_path, "--quick") == 0
    assert not list(tmp_path.iterdir())

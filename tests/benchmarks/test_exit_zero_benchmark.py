"""The benchmark of exit zero: its rules against the library's simulation, and a run to the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import exit_zero as benchmark
import exit_zero_candidates as candidates
from fastbert_hf.calibration import ExitRecords, simulate
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.flops import ModelShape
from fastbert_hf.machine import describe_machine
from helpers.training import make_data, make_model, make_tokenizer
from measured import readers
from zero.rules import Family, best_rule, splits


@pytest.fixture
def records():
    shape = ModelShape(8, 16, 3, 4, 2, exit_layers=(0, 1, 2, 3))
    labels = torch.randint(2, (200,))
    logits = torch.randn(200, 4, 2) + torch.nn.functional.one_hot(labels, 2)[:, None] * torch.arange(1, 5)[:, None]
    return ExitRecords(logits, labels, torch.randint(3, 20, (200,)), shape)


@pytest.mark.parametrize("zero", [True, False])
def test_rules_do_what_the_simulation_says(records, zero):
    family = Family.of(records, zero=zero)
    assert any(0 in rule.layers for rule in family.rules) == zero
    for place in range(0, len(family.rules), 37):
        result = simulate(records, family.rules[place])
        assert family.right[:, place].mean() == pytest.approx(result.accuracy)
        assert family.full.sum() / family.flops[:, place].sum(dtype=float) == pytest.approx(result.flops_speedup, 1e-5)


def test_the_other_half_measures(records):
    families = {"with": Family.of(records, zero=True), "without": Family.of(records, zero=False)}
    slow, fast = splits(families, [1.5, 30.0], 3)
    assert fast["without"] is None and fast["with"]["flops_speedup"] > 10  # a layer less than no layer at all
    assert slow["with"]["accuracy"] > 0.5 and slow["without"]["flops_speedup"] > 1
    rule = best_rule(families["with"], 2.0, np.arange(100))
    assert simulate(records.rows(torch.arange(100)), rule).flops_speedup >= 2


def test_from_a_backbone_to_the_table(quick_run, tmp_path):
    benchmark.main([*quick_run, "--out", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()
    options = benchmark.parse_arguments(quick_run)
    case = benchmark.run_task("sst2", options)  # of the models that are there
    rows = {row["setting"]: row for row in case["times"]["rows"]}
    assert rows[benchmark.ALONE]["mean_exit_layer"] == 0 and rows[benchmark.ALONE]["left_at_layer_0"] == 1
    assert rows[benchmark.FULL_DEPTH]["mean_exit_layer"] == 3 and rows[benchmark.FULL_DEPTH]["over_full_depth"] == 1
    assert case["fit"]["texts"] == case["traffic"] and [*case["accuracy_by_head"]] == ["0", "1", "2", "3"]
    points = list(readers.exit_zero({"machine": describe_machine(), "tasks": [case]}, "exit_zero_cpu_x.json"))
    seconds = {point.setting: point.seconds for point in points if point.series.endswith("with layer 0")}
    assert seconds[benchmark.ALONE] == rows[benchmark.ALONE]["microseconds_per_text"] / 1e3  # ms a text, s for 1,000
    assert points[-1].seconds is None and points[-1].accuracy == case["bag_of_words"]
    page = benchmark.table({"rounds": 1, "threads": 1, "splits": 3, "tasks": [case]})
    assert (case["backbone"], case["layers"]) == ("backbone", 3) and "## sst2, 3-layer backbone: " in page
    assert "| layer 0 alone |" in page and "Calibrated to at most 20% other answers" in page


def test_candidates_from_the_same_lessons(quick_run, tmp_path):
    candidates.main([*quick_run, "--out", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()
    case = candidates.run_task("sst2", candidates.parse_arguments(quick_run))  # of the models that are there
    assert {*case["candidates"]} == {candidates.BAG, candidates.ATTENTIVE} and case["times"]["full depth"]["seconds"]
    page = candidates.table({"rounds": 1, "threads": 1, "tasks": [case]})
    assert "| bag of hashed words |" in page and "| attentive head on the embeddings |" in page


def test_the_head_learns_from_the_teacher(monkeypatch):
    model = make_model().eval()
    dataset = TokenisedDataset(make_data(60), make_tokenizer(), 16)
    teacher = torch.cat(list(candidates.answers(model, dataset))).log_softmax(dim=-1)

    @torch.no_grad()
    def divergence(head):
        student = torch.cat([head(*candidates.embedded(model, batch)) for batch in candidates.batches(dataset)])
        return torch.nn.functional.kl_div(student.log_softmax(dim=-1), teacher, reduction="sum", log_target=True)

    learned = divergence(candidates.distilled_head(model, dataset))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: None)
    assert learned < divergence(candidates.distilled_head(model, dataset)) / 2


def test_the_timed_head_answers_as_the_one_that_learned():
    model = make_model().eval()
    dataset = TokenisedDataset(make_data(40), make_tokenizer(), 16)
    head = candidates.distilled_head(model, dataset)
    answer = candidates.in_kernels(model, head)
    for batch in candidates.batches(dataset):
        with torch.no_grad():
            torch.testing.assert_close(answer(batch), head(*candidates.embedded(model, batch)), rtol=1e-4, atol=1e-5)


def test_what_an_answer_is_worth():
    logits = torch.tensor([[9.0, 0.0], [0.0, 1.0], [0.0, 8.0], [2.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = candidates.worth(logits, torch.tensor([0, 1, 0, 1]), teacher)
    assert (found["accuracy"], found["agreement"]) == (0.5, 0.75)
    assert (found["accuracy_of_the_surest_half"], found["agreement_of_the_surest_half"]) == (0.5, 1.0)

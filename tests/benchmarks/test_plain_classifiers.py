"""The benchmark of plain classifiers: a run of two contestants, and what its check notices."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import plain_classifiers as benchmark
from documents import plain
from peers import BASELINE, transformers_eager
from peers.contestant import Answer
from peers.plain import PlainSetup


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    model = benchmark.make_model("tiny")
    setup = PlainSetup(model, torch.device("cpu"), 1, tmp_path_factory.mktemp("files"))
    entries = (transformers_eager.ENTRIES[0], benchmark.ENTRIES[-1])
    contestants = {entry.name: (entry, entry.build(setup)) for entry in entries}
    eager = contestants[BASELINE][1]

    def wrong(request):
        return Answer(eager.run(request).logits + torch.tensor([0.2, 0.0]))

    contestants["ours patched, wrong"] = (entries[1], dataclasses.replace(eager, run=wrong))
    return benchmark.measure(contestants, benchmark.make_samples(5, model.config.vocab_size), batch=2, rounds=2)


def test_answers_are_compared_with_the_baseline(rows):
    baseline, auto, wrong = rows
    assert baseline["contestant"] == BASELINE and baseline["logit_error"] == 0 and baseline["speedup"] == 1
    assert auto["contestant"] == benchmark.AUTO and auto["agrees"] and auto["speedup"] > 0
    assert wrong["logit_error"] == pytest.approx(0.2, abs=1e-3) and not wrong["agrees"] and "speedup" not in wrong
    assert all(len(row["seconds"]) == 2 for row in rows)


def test_tables_give_no_speedup_where_outputs_disagree(rows):
    case = {"shape": "tiny", "batch": 32, "texts": 5, "mean_length": 41.5, "rows": rows}
    machine = {"threads": 2, "date": "2026-01-02T03", "versions": {"torch": "2.13"}, "processor": "a processor"}
    result = {"baseline": BASELINE, "rounds": 2, "threads": 2, "load": [0.5], "versions": {}, "not_available": {}}
    result |= {"configurations": [case], "machine": machine}
    page, table = benchmark.markdown(result), plain.tables({"amd_avx2": result}, {"amd_avx2": {}})
    for text in (page, table):
        lines = [line for line in text.splitlines() if line.startswith("| ours patched, wrong")]
        assert len(lines) == 1 and "outputs disagree" in lines[0]
    stood_in = plain.tables({}, {"amd_avx2": result})
    assert "comparison_cpu_amd_avx2.json" in stood_in and "the paper's exit head in place of" in stood_in
    assert "plain_classifiers_cpu_amd_avx2.json" in table and "42 tokens on average" in table

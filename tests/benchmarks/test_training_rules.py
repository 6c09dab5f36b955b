"""The grid behind the rule for epochs and learning rate: which cells, in which order, resumed, and the table."""

from __future__ import annotations

import json
import math

import pytest

import training_rules as benchmark
from fastbert_hf.data import ClassificationData
from fastbert_hf.training import FINE_TUNING, schedule_for


@pytest.fixture
def parts():
    def part(size):
        return ClassificationData([f"text {number}" for number in range(size)], None, [0, 1] * (size // 2), ["a", "b"])

    return benchmark.Parts(part(700), part(20))


def test_cells_are_the_grid_the_rule_and_the_default(parts):
    cells = list(benchmark.cells_of("docstrings_8", parts, benchmark.SMALL))
    assert {cell.texts for cell in cells} == {500, 700} and len(set(cells)) == len(cells)
    for texts in (500, 700):
        here = [cell for cell in cells if cell.texts == texts]
        rule = schedule_for(texts, 2, 384)
        assert (rule.epochs, rule.learning_rate) in [(cell.epochs, cell.rate) for cell in here]
        assert (FINE_TUNING.epochs, FINE_TUNING.learning_rate) in [(cell.epochs, cell.rate) for cell in here]
        assert {cell.steps for cell in here} >= {100, 200, 400}
        assert all(1 <= cell.epochs <= benchmark.MOST_EPOCHS for cell in here)


def test_the_cheapest_come_first_and_what_is_there_is_not_run_again(parts, tmp_path, monkeypatch, capsys):
    run = []

    def train(cell, parts, seed):
        run.append(cell)
        return {"classes": 2, "steps": cell.steps, "accuracy": cell.rate * 1e3, "seconds": 1.0}

    monkeypatch.setattr(benchmark, "train", train)
    monkeypatch.setattr(benchmark, "parts_of", lambda name, data: parts)
    options = ["--sets", "docstrings_8", "--texts", "500", "--out", str(tmp_path)]
    benchmark.main([*options, "--minutes", "0"])
    assert run == []
    benchmark.main(options)
    costs = [cell.cost for cell in run]
    assert costs == sorted(costs) and len(run) == len(
        json.loads((tmp_path / "training_rules.json").read_text())["cells"]
    )
    rule = schedule_for(500, 2, 384)
    words = f"| 20.0% (100, 0.0002) | 10.0% ({rule.epochs * 16}, 0.0001) | 5.0% (48, 5e-05) |"
    assert words in capsys.readouterr().out
    run.clear()
    benchmark.main(options)
    assert run == []


def test_sets_in_files_need_a_folder():
    assert set(benchmark.parse_arguments([]).sets) == set(benchmark.DOCSTRINGS)
    with pytest.raises(SystemExit, match="give --data FOLDER"):
        benchmark.parts_of("sst2", None)
    assert math.isinf(benchmark.parse_arguments([]).minutes)

"""The simulation of calibrations: its cells are those of the library, and what is there is not computed again."""

from __future__ import annotations

import json

import pytest
import torch

import calibration_power as benchmark
from documents.calibration import power
from fastbert_hf.calibration import certify_one_speed, simulate
from helpers.analysis import make_records


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.safetensors"
    make_records(700, labels=2).save(path)
    return path


def test_cells_are_drawn_resumed_and_shown(file, tmp_path, capsys):
    ways = ["one Speed", "search, 2/3 test"]
    wish = ["--promises", "--max-drop 0.02", "--multiples", "1", "2", "--splits", "2", "--out", str(tmp_path)]
    benchmark.main([str(file), *wish, "--ways", *ways])
    told = capsys.readouterr().out
    result = json.loads((tmp_path / "calibration_power.json").read_text())
    cells = result["cells"]
    # Of the fewest texts, part of them cannot show anything.
    assert [(one["multiple"], one["way"]) for one in cells] == [(1, ways[0]), *((2, way) for way in ways)]
    assert "| some | 298 (2 times the fewest) |" in told and "| search, 2/3 test | 2 |" in told
    assert "| some | 298 (2 times the fewest) |" in power(result) and "`--max-drop 0.02`:" in power(result)
    first = cells[1]
    population = make_records(700, labels=2)
    for split, speedup in enumerate(first["speedups"]):
        rows = torch.randperm(700, generator=torch.Generator().manual_seed(split))[:298]
        rule = certify_one_speed(population.rows(rows), 0.02).found.rule
        assert simulate(population, rule).flops_speedup == pytest.approx(speedup, abs=1e-4)
    assert first["loss_used"] >= 0 and first["violations"] <= 2
    benchmark.main([str(file), *wish, "--ways", *ways])
    again = capsys.readouterr().out
    assert "of the loss," not in again and again.splitlines()[-5:] == told.splitlines()[-5:]


def test_shares_are_compared_drawing_by_drawing():
    def cell(way, texts, speedups):
        found = {"records": "some", "promise": "--max-drop 0.02", "multiple": texts / 149, "way": way, "texts": texts}
        return found | {"splits": 2, "mean_speedup": 2.0, "loss_used": 0.5, "speedups": speedups}

    half = [cell("search, 1/2 test", 298, [1.0, 3.0]), cell("search, 1/2 test", 447, [2.0, 2.0])]
    other = [cell("search, 4/5 test", 298, [2.0, 3.0]), cell("search, 4/5 test", 447, [4.0, 2.0])]
    told = power({"cells": [*half, *other, cell("search, 4/5 test", 894, [9.0, 9.0])]})
    # Each cell has one drawing that is twice as fast, the same in both, so that two cells tell no more than one; the
    # largest has nothing to be compared with.
    assert told.endswith("`search, 4/5 test` 1.414x (twice the standard error 0.693) over 2 cells.")
    assert "over `search, 1/2 test`" not in power({"cells": half})


def test_without_records_there_is_nothing_to_draw_from(tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_arguments([str(tmp_path / "absent.safetensors")])
    assert "record exits with fastbert calibrate --records" in capsys.readouterr().err
    assert "has not been measured" in power(None)

"""The benchmark of adopted classifiers: who sees which texts, and a run from a backbone to the table."""

from __future__ import annotations

import pytest

import adopted_classifiers as benchmark
from adopting.models import TASKS, Texts


def test_no_text_has_two_parts(two_class_data):
    texts = Texts.read(two_class_data / "sst2")
    parts = (texts.labelled, texts.traffic, texts.calibration, texts.new)
    assert [len(part) for part in parts] == [80, 80, 100, 40]
    assert len({text for part in parts for text in part.texts}) == 300


def test_from_a_backbone_to_the_table(quick_run, tmp_path):
    benchmark.main([*quick_run, "--out", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()
    options = benchmark.parse_arguments(quick_run)
    case = benchmark.run_task("sst2", options)  # of the models that are there
    eager, whole, early, *auto = case["rows"]
    assert eager["other_labels_than_eager"] == 0 and eager["over_eager"] == 1
    assert whole["largest_logit_difference"] < 1e-4 and "other_labels_than_own_full_depth" not in whole
    assert early["contestant"] == "adopted, float32" and early["calibration_texts"] == benchmark.QUICK_TEXTS
    assert early["other_labels_than_own_full_depth"] <= case["texts"] and early["flops_speedup"] > 0
    assert len(auto) == 2 and case["texts"] == 40 and case["traffic"] == benchmark.QUICK_TEXTS
    page = benchmark.table({"rounds": 1, "threads": 1, "max_disagreement": 0.2, "tasks": [case]})
    assert "| adopted, float32 |" in page and "at most 20% other labels" in page
    assert "## sst2, 3-layer backbone: 40 new texts" in page


def test_data_that_is_not_there_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_arguments(["--data", str(tmp_path)])
    message = capsys.readouterr().err
    assert "there is no" in message and all(name in message for name in TASKS)

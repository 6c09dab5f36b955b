"""The benchmark of the pace of training: its table, and that nothing is left running."""

from __future__ import annotations

import subprocess

import training_pace as benchmark


def test_the_neighbours_end_with_the_block(monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(benchmark.subprocess, "Popen", lambda words: started.append(popen(words)) or started[-1])
    with benchmark.busy(2):
        assert [process.poll() for process in started] == [None, None]
    assert all(process.returncode is not None for process in started)


def test_the_table_has_medians_and_the_slowest_step():
    seconds = {"alone": {"PASSIVE": [1.0, 2.0, 9.0]}}
    page = benchmark.table({"steps": 3, "rounds": 1, "load": [0.0], "seconds": seconds})
    assert "| alone | PASSIVE | 2.00 | 9.00 |" in page

"""The benchmark of patched hosts: how it chooses the Speed, what its check notices, and a run of two hosts."""

from __future__ import annotations

import json

import pytest
import torch

import hosts as benchmark
from families import result_name
from fastbert_hf.timing import Seconds
from hosting import measure, subjects
from hosting.measure import Record
from hosting.subjects import Answers

LAYERS, TEXTS = 6, 50


@pytest.fixture
def record():
    draw = torch.Generator().manual_seed(0)
    outputs = torch.randn(LAYERS, TEXTS, 3, generator=draw)
    return Record(outputs, torch.rand(LAYERS, TEXTS, generator=draw))


def test_the_speed_gives_a_third_of_the_depth_and_keeps_clear_of_uncertainties(record):
    speed = measure.choose_speed([record], LAYERS / 3, LAYERS)
    layers = [
        next((layer for layer in range(1, LAYERS) if record.uncertainty[layer - 1, text] < speed), LAYERS)
        for text in range(TEXTS)
    ]
    assert abs(sum(layers) / TEXTS - 2) < 0.2
    assert (
        record.outputs[record.answering(speed), range(TEXTS)] == record.outputs[[k - 1 for k in layers], range(TEXTS)]
    ).all()
    assert (record.uncertainty[:-1].double() - speed).abs().min() >= 4e-4


def test_the_check_notices_a_wrong_layer_a_wrong_label_and_a_wrong_logit(record):
    speed = 0.3
    number = record.answering(speed)
    outputs = record.outputs[number, torch.arange(TEXTS)]
    halves = [Answers(outputs[:20]), Answers(outputs[20:])]
    good = measure.check(halves, record, speed, LAYERS)
    assert good["agrees"] and good["exit_layers"] == (number + 1).tolist()
    elsewhere = outputs.clone()
    elsewhere[7] = record.outputs[(number[7] + 1) % LAYERS, 7]
    verdict = measure.check([Answers(elsewhere)], record, speed, LAYERS)
    assert not verdict["agrees"] and verdict["other_exit_layers"] == 1
    assert not measure.check([Answers(outputs + 0.01)], record, speed, LAYERS)["agrees"]

    labels, layers = outputs.argmax(dim=-1).tolist(), (number + 1).tolist()
    assert measure.check([Answers(None, labels, layers)], record, speed, LAYERS)["agrees"]
    labels[3] = (labels[3] + 1) % 3
    verdict = measure.check([Answers(None, labels, layers)], record, speed, LAYERS)
    assert (verdict["agrees"], verdict["other_labels"], verdict["other_exit_layers"]) == (False, 1, 0)


def test_no_ratio_where_the_answers_differ():
    keys = [(who, 1, how) for who in ("unpatched", "patched") for how in ("full depth", "with exits")]
    rows = {key: {"agrees": True, "flops_speedup": 2.0} for key in keys}
    times = {key: Seconds([seconds] * 3) for key, seconds in zip(keys, (12.0, 8.0, 6.0, 4.0), strict=True)}
    adaptive = keys[3]
    figures = measure._figures(adaptive, rows, times)
    assert (figures["over_one_by_one"], figures["speedup"], figures["realisation"]) == (2.0, 1.5, 0.75)
    rows[adaptive]["agrees"] = False
    assert set(measure._figures(adaptive, rows, times)) == {"seconds"}
    rows[adaptive]["agrees"], rows[keys[1]]["agrees"] = True, False
    assert "over_one_by_one" not in measure._figures(adaptive, rows, times)


@pytest.mark.proof
def test_two_hosts_in_processes_of_their_own(tmp_path, capsys):
    options = ["--hosts", "DeeBERT", "BitVoyage", "--size", "tiny", "--rounds", "1", "--out", str(tmp_path)]
    assert benchmark.main(options) == 0
    result = json.loads((tmp_path / f"{result_name('hosts')}.json").read_text())
    assert [host["host"] for host in result["hosts"]] == ["DeeBERT", "BitVoyage"] and "processor" in result["machine"]
    for host in result["hosts"]:
        assert 0 < host["speed"] < 1
        for row in host["rows"]:
            assert row["agrees"] and len(row["seconds"]) == 1 and len(row["exit_layers"]) == result["texts"]
            depth = subjects.SIZES["tiny"].layers
            assert row["mean_exit_layer"] == depth if row["run"] == "full depth" else row["mean_exit_layer"] < depth / 2
    page = (tmp_path / f"{result_name('hosts')}.md").read_text()
    assert page.count("| DeeBERT | patched |") == 4
    assert capsys.readouterr().out.strip() in page


@pytest.mark.proof
def test_what_is_not_installed_or_fails_is_said(monkeypatch):
    entry = subjects.HostEntry(lambda size, scope, folder: None, needs="no_such_package")
    monkeypatch.setitem(subjects.HOSTS, "absent", entry)
    assert (
        benchmark.measure_apart("absent", "tiny", 1)["not_available"] == "the package no_such_package is not installed"
    )
    monkeypatch.setitem(subjects.HOSTS, "broken", subjects.HostEntry(lambda size, scope, folder: None))
    assert "invalid choice: 'broken'" in benchmark.measure_apart("broken", "tiny", 1)["not_available"]
    with pytest.raises(SystemExit):
        benchmark.main(["--rounds", "0"])

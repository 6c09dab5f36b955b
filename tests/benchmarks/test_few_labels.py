"""The benchmark of few labels: who sees which texts, and a run to the table, the chart and the points of the page."""

from __future__ import annotations

import json
import random

import pytest

import few_labels as benchmark
from fastbert_hf.training.distillation import DistillationTrainer
from helpers.stopping import CountedBatches, Stopped
from helpers.training import make_model, make_tokenizer
from measured import readers

pytest.importorskip("sklearn", reason="needs scikit-learn")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    draw, folder = random.Random(0), tmp_path_factory.mktemp("data")
    (folder / "ag_news").mkdir()
    for part, count in (("train", 60), ("test", 50)):
        rows = [f"{draw.randrange(2)}\t{part} {number} {draw.choice(['good', 'bad'])} film" for number in range(count)]
        (folder / "ag_news" / f"{part}.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    return folder


def test_texts_with_and_without_labels_are_others(data):
    few = benchmark.Texts.read(data / "ag_news", 10, 0, benchmark.QUICK)
    more = benchmark.Texts.read(data / "ag_news", 50, 0, benchmark.QUICK)
    assert (len(few.labelled), len(few.unlabelled), len(few.test)) == (10, 24, 40)
    assert not set(few.labelled.texts) & set(few.unlabelled.texts)
    assert more.labelled.texts[:10] == few.labelled.texts and len(more.unlabelled) == 10  # the rest
    every = benchmark.Texts.read(data / "ag_news", 10, 0, benchmark.Sizes())
    assert len(every.unlabelled) == 50 and every.unlabelled.texts[:24] == few.unlabelled.texts  # all of the rest
    assert benchmark.Texts.read(data / "ag_news", 10, 1, benchmark.QUICK).test.texts == few.test.texts
    with pytest.raises(SystemExit, match="has 60 rows"):
        benchmark.Texts.read(data / "ag_news", 60, 0, benchmark.QUICK)


def test_sizes_are_those_asked_for_and_quick_ones_have_a_folder_of_their_own(data, tmp_path, capsys):
    arguments = ["--data", str(data), "--run", str(tmp_path)]
    whole = benchmark.parse_arguments([*arguments, "--unlabelled", "7"])
    assert (whole.sizes.unlabelled, whole.run) == (7, tmp_path)
    assert benchmark.parse_arguments(arguments).sizes.unlabelled is None
    quick = benchmark.parse_arguments([*arguments, "--quick"])
    assert (quick.sizes, quick.run) == (benchmark.QUICK, tmp_path / "quick")
    with pytest.raises(SystemExit):
        benchmark.parse_arguments([*arguments, "--unlabelled", "0"])
    assert "--labels, --unlabelled and --seeds must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(("texts", "steps", "epochs"), [(200, 80, 12), (1000, 80, 3), (3200, 300, 3), (10, 2, 3)])
def test_epochs_take_so_many_steps(texts, steps, epochs):
    assert benchmark.epochs_for(texts, steps) == epochs
    assert epochs * -(-texts // 32) >= steps


def test_a_run_goes_on_and_ends_in_a_page(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "make_model", lambda *_: (make_model(num_layers=3), make_tokenizer()))
    monkeypatch.setattr(benchmark, "Sizes", lambda: benchmark.QUICK)
    arguments = ["--data", str(data), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    benchmark.main([*arguments, "--labels", "10"])
    monkeypatch.setattr(benchmark, "fine_tune", lambda *_, **__: pytest.fail("made again"))
    monkeypatch.setattr(benchmark, "distill", lambda *_, **__: pytest.fail("made again"))
    benchmark.main([*arguments, "--labels", "10"])  # from the records
    result = json.loads((tmp_path / "out" / "few_labels_cpu.json").read_text())
    rows = {row["students"]: row for row in result["rows"]}
    assert list(rows) == list(benchmark.STUDENTS) and len(result["bags"]) == 1
    assert len({json.dumps(row["full_depth"]) for row in rows.values()}) == 1  # one teacher
    assert rows["hard"]["mean_accuracy"]["difference"] == 0
    for row in rows.values():
        assert row["curve"]["accuracy"][-1] == pytest.approx(row["layer_accuracy"][0])  # all leave at once
    assert (tmp_path / "out" / "few_labels_cpu.png").exists()
    assert "## 10 labels and 24 texts without, small, seed 0" in capsys.readouterr().out
    points = list(readers.few_labels(result, "few_labels_cpu.json"))
    assert {point.labels for point in points} == {10} and points[-1].accuracy == result["bags"][0]["accuracy"]


def test_students_from_all_texts_go_on_from_their_last_epoch(data, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "make_model", lambda *_: (make_model(num_layers=3), make_tokenizer()))
    options = benchmark.parse_arguments(["--data", str(data), "--run", str(tmp_path), "--labels", "10", "--quick"])
    batches = CountedBatches(monkeypatch, DistillationTrainer)
    batches.stops_at = 4  # the first of the third epoch of three, of two batches
    with pytest.raises(Stopped):
        benchmark.run_labels(10, 0, options)
    batches.stops_at = -1
    benchmark.run_labels(10, 0, options)
    assert batches.taken == 6 + 3 + 3  # no epoch of `soft` twice; the others of one batch
    assert not list(tmp_path.glob("quick/*/steps/*"))


def test_a_run_with_other_sizes_is_refused(data, tmp_path, monkeypatch):
    def begins(*_):
        raise Stopped

    monkeypatch.setattr(benchmark, "records_of", begins)
    arguments = ["--data", str(data), "--run", str(tmp_path), "--quick", "--unlabelled"]
    with pytest.raises(Stopped):
        benchmark.run_labels(10, 0, benchmark.parse_arguments([*arguments, "24"]))
    with pytest.raises(SystemExit, match=r"sizes unlabelled: 24 there, 23 now"):
        benchmark.run_labels(10, 0, benchmark.parse_arguments([*arguments, "23"]))

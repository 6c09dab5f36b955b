"""The page of accuracy against time: what its readers take from result files, its tables, and its picture."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import statistics

import pytest

from documents import accuracy_and_time as page
from families import results_by_family
from harness import RESULTS
from measured import chart, readers
from measured.point import Kind, Point
from measured.readers import READERS, SETS, read_points


def make_point(accuracy: float | None, seconds: float | None, name: str = "", kind: Kind = Kind.EARLY) -> Point:
    processor = "" if seconds is None else "some processor"
    return Point("AG News", kind, name or "a model", "", "x.json", accuracy, 200, 10, None, seconds, processor, 2)


def committed(start: str) -> tuple[str, dict]:
    path = next(RESULTS.glob(f"{start}*.json"))
    return path.name, json.loads(path.read_text())


def row_of(text: str, name: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith((f"| {name} |", f"| **{name}** |")))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_every_kind_that_is_committed_is_read():
    sources = {point.source for point in read_points(RESULTS)}
    kinds = {start for start in READERS if list(RESULTS.glob(f"{start}*.json"))}
    assert {next(start for start in READERS if name.startswith(start)) for name in sources} == kinds
    assert len(kinds) >= 7


def test_figures_are_those_of_the_files():
    source, bags = committed("bag_of_words")
    bag = next(row for row in bags["tasks"] if row["task"] == "ag_news")
    text = page.sections([point for point in read_points(RESULTS) if point.data == SETS["ag_news"]])
    seconds, accuracy, _, labels, threads, origin = row_of(text, "TF-IDF of words, logistic regression")
    assert float(seconds) == pytest.approx(statistics.median(bag["ms_per_text"]), rel=5e-3)
    assert accuracy.startswith(f"{bag['accuracy']:.1%}") and labels == f"{bag['train']:,}" and threads == "1"
    assert source in origin

    cases = [case for result in results_by_family(RESULTS, "adopted_classifiers").values() for case in result["tasks"]]
    case = next(case for case in cases if case["task"] == "ag_news")
    eager = case["rows"][0]
    seconds, accuracy, *_ = row_of(text, f"MiniLM, 6 layers, {eager['contestant']}, full depth")
    assert float(seconds) == pytest.approx(1000 / eager["texts_per_second"], rel=5e-3)
    assert accuracy.startswith(f"{eager['accuracy']:.1%}")


def test_generations_of_a_family_are_processors_of_their_own():
    """Or the page would hold times of one against those of another that is twice as fast."""
    processors = {point.processor for point in read_points(RESULTS) if "_amd_zen4_avx512" in point.source}
    others = {point.processor for point in read_points(RESULTS) if "_cpu_amd_avx512" in point.source}
    assert processors - {""} == {"AMD EPYC Zen 4, AVX-512"} and others - {""} == {"AMD EPYC, AVX-512"}


def test_what_has_no_time_or_no_accuracy_says_so():
    text = page.sections([make_point(0.5, None, "untimed"), make_point(None, 2.0, "uncounted")])
    assert row_of(text, "uncounted")[:2] == ["2.00", "not measured"]
    assert "seconds: not measured" in text and row_of(text, "untimed")[1] == "50.0%"


def test_bold_is_what_nothing_beats():
    draw = random.Random(3)
    points = [make_point(draw.randrange(8) / 8, draw.randrange(1, 9), f"m{number}") for number in range(40)]
    points.append(make_point(None, 0.1, "uncounted"))
    front = {point.series for point in page.best(points)}
    least = {}  # seconds of the fastest, by accuracy
    for point in points[:-1]:
        least[point.accuracy] = min(least.get(point.accuracy, 99.0), point.seconds)
    fast = 99.0
    wanted = set()
    for accuracy in sorted(least, reverse=True):
        if least[accuracy] < fast:
            fast = least[accuracy]
            wanted |= {point.series for point in points if (point.accuracy, point.seconds) == (accuracy, fast)}
    assert front == wanted and 1 < len(wanted) < 40
    text = page.sections(points)
    assert all((f"| **{point.series}** |" in text) == (point.series in wanted) for point in points)


def test_new_files_come_in_without_an_edit(tmp_path):
    name, result = committed("bag_of_words")
    result["tasks"] = result["tasks"][:1]
    result["machine"] |= {"processor": "Another", "extensions": ["avx2", "avx512f", "amx_bf16"], "threads": 4}
    (tmp_path / "bag_of_words_cpu_intel_amx.json").write_text(json.dumps(result))
    (tmp_path / "compaction_of_something.json").write_text("{}")
    shutil.copy(RESULTS / name, tmp_path)
    new, *_ = (point for point in read_points(tmp_path) if point.source.endswith("amx.json"))
    assert (new.processor, new.threads) == ("Another, AMX", 4)
    assert "On Another, AMX:" in page.sections(read_points(tmp_path))


def test_the_picture_knows_its_points(tmp_path):
    pytest.importorskip("matplotlib")
    points = [make_point(0.5 + number / 10, 1.0 + number) for number in range(3)]
    points += [make_point(0.4, 0.1, "bag", Kind.BAG), make_point(0.9, None)]
    path = tmp_path / "picture.png"
    assert not chart.is_of(path, points)
    chart.draw(points, path)
    assert path.read_bytes().startswith(b"\x89PNG") and chart.is_of(path, points)
    assert not chart.is_of(path, [dataclasses.replace(points[0], seconds=1.5), *points[1:]])
    assert list(chart.panels(points)) == [("AG News", "some processor")]


def test_an_analysis_is_of_the_model_that_its_folder_names():
    _, result = committed("analysis_mrpc")
    before = {point.series for point in readers.analyzed(result, "x.json")}
    assert "MiniLM, 6 layers, self-distilled, patched" in before
    result["source"] |= {"model": "run/ag_news-mpnet-base-distilled-0", "compared": "ag_news-mpnet-base-joint-0"}
    result["figures"]["num_layers"] = 12
    result["figures"]["tradeoff"]["depths"][-1]["value"] = result["figures"]["compared"]["depths"][-1]["value"] = 12
    points = list(readers.analyzed(result, "x.json"))
    start = "mpnet-base, 12 layers, "
    series = {f"{start}self-distilled, seed 0, patched", f"{start}no self-distillation, seed 0, patched"}
    assert {point.data for point in points} == {"AG News"}
    assert {point.series for point in points if point.kind is not Kind.BAG} == series
    result["source"]["model"] = "my-model"
    with pytest.raises(ValueError, match="'my-model' is not the name of a trained model"):
        list(readers.analyzed(result, "x.json"))


def test_adopted_models_are_of_the_backbone_that_a_file_says():
    for start, read in (("adopted_classifiers", readers.adopted), ("exit_zero", readers.exit_zero)):
        source, result = committed(start)
        before = list(read(result, source))
        result["tasks"] = [task | {"backbone": "e5-small", "layers": 12} for task in result["tasks"]]
        after = list(read(result, source))
        for one, other in zip(before, after, strict=True):
            assert other.series == one.series.replace("MiniLM, 6 layers", "e5-small, 12 layers")
        assert any(point.series.startswith("e5-small, 12 layers, ") for point in after)

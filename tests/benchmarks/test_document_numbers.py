"""Figures in README.md and docs/performance.md come from the result files of every family that has one."""

from __future__ import annotations

import copy
import json
import shutil

import pytest

import document_numbers
from documents import rates
from families import results_by_family
from harness import RESULTS
from measured import chart


@pytest.fixture(scope="module")
def one_family():
    return {"amd_avx512": results_by_family(RESULTS, "comparison")["amd_avx512"]}


@pytest.fixture(scope="module")
def two_families(one_family):
    """A second machine: twice as fast everywhere, and without the trained model and one dtype."""
    other = copy.deepcopy(one_family["amd_avx512"])
    other["machine"]["processor"] = "Intel Xeon"
    other["configurations"] = [case for case in other["configurations"] if case["shape"] != "model"]
    for case in other["configurations"]:
        case["rows"] = [row for row in case["rows"] if row["contestant"] != "ours patched bfloat16"]
        for row in case["rows"]:
            row["seconds"] = [seconds / 2 for seconds in row["seconds"]]
            row["samples_per_second"] = {name: 2 * value for name, value in row["samples_per_second"].items()}
    return {**one_family, "intel_amx": other}


def cells(table: str, title: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_documents_are_what_the_result_files_say():
    assert document_numbers.main(["--check"]) == 0


def test_families_stand_side_by_side(one_family, two_families):
    row = "Transformers eager float32"
    alone, both = cells(rates.rates(one_family), row), cells(rates.rates(two_families), row)
    assert len(alone) == 3 and both[:3] == alone
    for first, second in zip(both[:3], both[3:], strict=True):
        assert float(second.split()[0]) == pytest.approx(2 * float(first.split()[0]), rel=0.01)
    assert "Intel Xeon" not in rates.rates(one_family) + rates.sources(one_family, {}) + rates.charts(one_family)
    assert "Intel Xeon, AMX" in rates.rates(two_families)


def test_what_a_family_did_not_measure_is_a_dash(two_families):
    assert cells(rates.rates(two_families), "ours patched bfloat16")[3:] == ["-"] * 3
    title = "batch 32, mixed lengths, depth 4, over eager float32"
    _, first, second = cells(rates.marks(two_families, {}), title)
    assert "-" not in first and second.split(", ")[1] == "-"
    assert "Intel" not in rates.trained(two_families) and "AVX-512" in rates.trained(two_families)


def test_marks_are_ratios_within_a_round(one_family):
    case = rates.find_case(one_family["amd_avx512"], "BERT-base", 8, "full")
    ours = rates.find_row(case, "ours patched float32")
    peer = rates.find_row(case, "OpenVINO float32")
    assert rates.fastest_peer(case, "float32") is peer
    pairs = sorted(theirs / own for theirs, own in zip(peer["seconds"], ours["seconds"], strict=True))
    middle = len(pairs) // 2
    median = pairs[middle] if len(pairs) % 2 else (pairs[middle - 1] + pairs[middle]) / 2
    title = "full depth, all 128 tokens, batch 8, over the fastest peer of the same dtype"
    assert cells(rates.marks(one_family, {}), title)[1].split(", ")[0] == f"{median:.2f}x"


def test_stale_and_new_figures(monkeypatch, tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    for path in RESULTS.glob("*_cpu_amd_avx512.json"):
        shutil.copy(path, results)
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    monkeypatch.setattr(chart, "draw", lambda points, path: path.write_text(chart.mark(points)))
    (tmp_path / "README.md").write_text("before\n<!-- numbers: demo -->\nold\n<!-- end of numbers -->\nafter\n")
    for name, value in (("RESULTS", results), ("ROOT", tmp_path), ("DOCUMENTS", ("README.md",))):
        monkeypatch.setattr(document_numbers, name, value)
    assert document_numbers.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "README.md" in said and "accuracy_and_time.png" in said
    assert document_numbers.main([]) == 0 and document_numbers.main(["--check"]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert text.count("Measured by `make demo`") == 1

    demo = json.loads((results / "demo_cpu_amd_avx512.json").read_text())
    demo["machine"]["processor"] = "Intel Xeon"
    (results / "demo_cpu_intel_amx.json").write_text(json.dumps(demo))
    assert document_numbers.main(["--check"]) == 1 and document_numbers.main([]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text.count("Measured by `make demo`") == 2 and "demo_cpu_intel_amx.png" in text


def test_a_marker_without_figures_is_an_error():
    with pytest.raises(KeyError, match="unknown"):
        document_numbers.fill("<!-- numbers: unknown -->\n\n<!-- end of numbers -->", {})

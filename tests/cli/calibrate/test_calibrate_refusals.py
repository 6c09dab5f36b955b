"""What `fastbert calibrate` refuses, and what it says of texts, models and folders before it does anything."""

from __future__ import annotations

import json
import os

import pytest

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.calibration import split_rows
from fastbert_hf.data import TextData
from fastbert_hf.data.seen import SeenTexts
from helpers.cli import assert_complaint, invoke, succeed
from helpers.families import make_model as make_family_model
from helpers.models import with_exit_zero

LABELS = ["no", "perhaps", "yes"]


def test_texts_that_the_tokenizer_does_not_know_are_told(folder, tmp_path) -> None:
    (tmp_path / "other.txt").write_text("ein guter film\nein schlechtes buch\n" * 100)
    told = succeed("calibrate", folder, "--data", tmp_path / "other.txt", "--max-disagreement", 0.2, "--dry-run")
    assert (
        "note: 50% of the tokens are unknown to the model's tokenizer: are the texts in another language" in told.stderr
    )


def test_a_score_has_no_label_to_promise(folder, original) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "score"}, {"score": 0}
    (folder / "config.json").write_text(json.dumps(config))
    refused = invoke("calibrate", folder, "--data", original.parent / "texts.txt", "--max-disagreement", 0.1)
    assert_complaint(refused, "calibrate", "one output, a score, and no label that could differ from full depth's")


def test_records_of_other_texts_or_labels_are_refused(folder, dev, tmp_path) -> None:
    kept, other = tmp_path / "exits.safetensors", tmp_path / "other.tsv"
    options = ("--min-speedup", 1.2, "--records", kept, "--dry-run")
    first = succeed("calibrate", folder, "--data", dev, *options).stdout
    assert succeed("calibrate", folder, "--data", dev, *options).stdout == first
    header, line, *lines = dev.read_text().splitlines()
    label, text = line.split("\t")
    another_word = text.replace("good", "bad") if "good" in text else " ".join(["good", *text.split()[1:]])
    another_label = LABELS[(LABELS.index(label) + 1) % 3]
    for changed in (f"{label}\t{another_word}", f"{another_label}\t{text}"):
        other.write_text("\n".join([header, changed, *lines]) + "\n")
        refused = invoke("calibrate", folder, "--data", other, *options)
        assert_complaint(refused, "calibrate", "recorded with other texts or labels; delete the file or name another")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            "no target; give exactly one of --max-drop, --max-disagreement, --max-f1-drop, --min-speedup, --latency-ms",
        ),
        (["--max-drop", 0.01, "--min-speedup", 2], "--max-drop and --min-speedup at once; give exactly one"),
        (["--max-drop", 1], "fastbert calibrate: --max-drop is a part of the samples, in [0, 1)"),
        (["--max-drop", 0], "cannot be shown with any number of samples"),
        (["--max-drop", 0.005], "400 samples cannot show with 0.95 confidence that at most 0.005 of accuracy is lost"),
        (["--max-f1-drop", 0], ": --max-f1-drop is a difference of F1, in (0, 1)"),
        (["--max-f1-drop", 0.4, "--no-one-speed"], "--max-f1-drop takes one Speed for all layers"),
        (["--max-f1-drop", 0.1, "--data", "{few}"], "class 'perhaps' has 0 samples, and 56 are needed of each class"),
        (["--max-f1-drop", 0.1, "--data", "{twelve}"], "has no labels, which --max-f1-drop needs"),
        (["--max-drop", 0.005], "598 samples are enough if"),  # all of them test
        (["--max-drop", 0.005, "--no-one-speed"], "748 samples (598 to test with, the others to choose the setting)"),
        (["--max-drop", 0.008, "--no-one-speed"], "enough for --one-speed, which needs 373 in all"),
        (
            ["--max-drop", 0.008, "--criterion", "auto"],
            "400 texts are too few for a search (--criterion auto), which tests on 80% of them and needs 373 there, "
            "but enough for --one-speed, which needs 373 in all; leave --criterion auto out",
        ),
        (["--max-drop", 0.005], "Use more samples, a larger --max-drop or less --confidence"),
        (["--max-disagreement", 0.005], "Use more samples, a larger --max-disagreement or less --confidence"),
        (["--max-f1-drop", 0.1, "--data", "{few}"], "Use more samples of it, or --max-drop, which is of all samples"),
        (
            ["--max-disagreement", 0.01, "--data", "{twelve}"],
            "12 samples cannot show with 0.95 confidence that at most",
        ),
        (["--max-disagreement", 0.01, "--data", "{twelve}"], ": 299 samples are enough if none of theirs differs"),
        (["--max-disagreement", 0.01, "--data", "{empty}"], "no samples; add some"),
        (["--max-disagreement", 0.01, "--data", "missing.txt"], "missing.txt"),
        (["--max-disagreement", 0, "--data", "{twelve}"], "cannot be shown with any number of samples"),
        (["--max-disagreement", 1.5], ": --max-disagreement is a part of the samples, in [0, 1)"),
        (["--max-disagreement", 0.1, "--max-drop", 0.1], "--max-drop and --max-disagreement at once; give exactly one"),
        (
            ["--max-drop", 0.1, "--data", "{twelve}"],
            "has no labels, which --max-drop needs; add them, or use --max-dis",
        ),
        (["--max-drop", 0.05, "--confidence", 1.5], ": --confidence must lie between 0 and 1"),
        (["--max-drop", 0.05, "--data", "{few}"], "5 samples cannot show"),
        (["--min-speedup", 2, "--data", "{few}"], "5 samples are too few to choose a setting by its accuracy"),
        (["--min-speedup", 2, "--data", "{one}"], "all 200 samples have the class 0"),
        (["--min-speedup", 2, "--data", "{unknown}"], "unknown label 'maybe'"),
        (["--min-speedup", 50], "no rule has a FLOPs speed-up of 50 or more; the fastest has 1.9; ask for less"),
        (["--min-speedup", 2, "--batch-size", 1], "--batch-size is for --latency-ms"),
        (["--min-speedup", 2, "--records", "{few}/x"], "no such folder; make it first"),
        (["--min-speedup", 2, "--records", "{few}"], "holds no exit records"),
        (["--min-speedup", 2, "--records", "."], "--records .: a folder; name a file"),
        (["--min-speedup", 2, "--max-length", 1000], "the model ends at"),
    ],
)
def test_complaints_are_one_line_and_nothing_is_written(folder, dev, tmp_path, options, message) -> None:
    files = {"few": "no\tbad\nyes\tgood\n" * 2 + "no\tbad\n", "one": "no\tbad\n" * 200, "unknown": "maybe\tbad\n"}
    paths = {name: tmp_path / f"{name}.tsv" for name in files}
    for name, content in files.items():
        paths[name].write_text("label\ttext\n" + content)
    for name, content in (("twelve", "good film\n" * 12), ("empty", "")):
        paths[name] = tmp_path / f"{name}.txt"
        paths[name].write_text(content)
    options = [option.format(**paths) if isinstance(option, str) else option for option in options]
    if "--data" not in options:
        options += ["--data", dev]
    result = invoke("calibrate", folder, *options)
    assert_complaint(result, "calibrate", message)
    assert result.stdout == "" and not (folder / "fastbert_calibration.json").exists()


def test_a_folder_that_cannot_be_written_is_told_before_the_model_runs(folder, dev, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (folder, os.W_OK))
    options = ("--data", dev, "--min-speedup", 1.2, "--records", tmp_path / "exits.safetensors")
    refused = invoke("calibrate", folder, *options)
    assert_complaint(refused, "calibrate", f"{folder}: cannot be written into; copy the model, or see the setting with")
    assert not (tmp_path / "exits.safetensors").exists()
    assert "dry run: nothing was written" in succeed("calibrate", folder, *options, "--dry-run").stdout


def test_models_that_cannot_be_calibrated(folder, dev) -> None:
    labels = {"id2label": dict(enumerate(LABELS)), "num_labels": 3}
    for settings, message in (
        ({"problem_type": "multi_label_classification"}, "model is multi-label, and --max-drop is for models"),
        ({"exit_layers": [4]}, "no student classifiers, so no text can leave early"),
    ):
        make_family_model("bert", **labels, **settings).save_pretrained(folder)
        assert_complaint(invoke("calibrate", folder, "--data", dev, "--max-drop", 0.1), "calibrate", message)
    make_family_model("bert", **labels).bfloat16().save_pretrained(folder)
    options = ("--data", dev, "--min-speedup", 1.1, "--temperature-scaling")
    assert_complaint(invoke("calibrate", folder, *options), "calibrate", "must be float32")


def test_speeds_that_contradict_or_cannot_be_had(original, folder, dev) -> None:
    texts = original.parent / "texts.txt"
    for options, message in (
        (("--speed", 0.5, "--full-depth"), "--speed and --full-depth do not go together"),
        (("--speedup", 2, "--speed", 0.5), "--speed and --speedup do not go together"),
        (("--speedup", 2), "speedup needs a calibrated model"),
    ):
        assert_complaint(invoke("predict", folder, texts, *options), "predict", message)
    message = "speedup needs a calibrated model"
    assert_complaint(invoke("evaluate", folder, "--data", dev, "--speedup", 2), "evaluate", message)
    succeed("calibrate", folder, "--data", dev, "--min-speedup", 1.2)
    assert_complaint(invoke("predict", folder, texts, "--speedup", 99), "predict", "no Speed gives a FLOPs speed-up")


def test_a_fault_while_saving_leaves_the_model(folder, dev, monkeypatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(self, temporary, **options):
        (temporary / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FastBertForSequenceClassification, "save_pretrained", full_disk)
    result = invoke("calibrate", folder, "--data", dev, "--min-speedup", 1.2, "--temperature-scaling")
    assert_complaint(result, "calibrate", "No space left on device")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_texts_of_the_training_promise_nothing(folder, dev) -> None:
    texts = [line.split("\t")[1] for line in dev.read_text().splitlines()[1:]]
    alone = [text for text in texts if texts.count(text) == 1]

    def saw(trained_on, chose):
        model = FastBertForSequenceClassification.from_pretrained(folder)
        model.seen_texts = SeenTexts().with_run(TextData(trained_on, None), TextData(chose, None))
        model.save_pretrained(folder)

    wish = ("calibrate", folder, "--data", dev, "--max-drop", 0.3, "--one-speed", "--dry-run")
    saw(alone[:30], alone[30:50])
    told = "50 of 400 texts were seen in training (30 trained on, 20 chose the epochs)"
    refused = invoke(*wish)
    assert_complaint(refused, "calibrate", f"{told}, so nothing can be guaranteed by them")
    assert "with --leave-out-seen (350 stay)" in refused.stderr
    left = succeed(*wish, "--leave-out-seen", "--json")
    assert json.loads(left.stdout)["texts"] == 350 and "they are left out, and 350 stay" in left.stderr
    without = succeed("calibrate", folder, "--data", dev, "--min-speedup", 1.2, "--dry-run", "--json")
    assert json.loads(without.stdout)["texts"] == 400 and f"{told}, so the figures below flatter" in without.stderr
    scored = succeed("evaluate", folder, "--data", dev, "--backend", "none", "--speed", 0.5, "--json")
    seen = {"trained_on": 30, "chose": 20, "fitted_temperatures": 0}
    assert json.loads(scored.stdout)["seen_in_training"] == seen
    assert told in scored.stderr
    saw(alone[:3], alone[3:4])  # a trace
    left = succeed(*wish, "--json")
    assert json.loads(left.stdout)["texts"] == 396 and "they are left out, and 396 stay" in left.stderr
    saw(texts, texts)
    refused = invoke(*wish, "--leave-out-seen")
    assert_complaint(refused, "calibrate", "400 of 400 texts were seen in training (400 trained on), so nothing can be")
    assert "--leave-out-seen" not in refused.stderr


def test_rules_with_layer_zero_and_without_it_share_the_level(folder, dev) -> None:
    with_exit_zero(FastBertForSequenceClassification.from_pretrained(folder)).save_pretrained(folder)
    refused = invoke("calibrate", folder, "--data", dev, "--max-f1-drop", 0.02)
    assert_complaint(refused, "calibrate", "364 are needed of each class")
    assert_complaint(refused, "calibrate", "(rules with layer 0 and without it share the level)")
    options = ("calibrate", folder, "--data", dev, "--one-speed", "--dry-run", "--json", "--max-drop")
    for max_drop, words in ((0.05, "without layer 0 and with it, each at half of the level"), (0.0075, "take 491")):
        method = json.loads(succeed(*options, max_drop).stdout)["setting"]["evidence"]["method"]
        assert words in method


def test_texts_that_fitted_temperatures_promise_nothing_later(folder, dev, tmp_path) -> None:
    scaled = succeed("calibrate", folder, "--data", dev, "--max-drop", 0.7, "--one-speed", "--temperature-scaling")
    assert "guarantee: With 0.95 confidence" in scaled.stdout  # of those that fitted nothing
    rows = dev.read_text().splitlines()[1:]
    keys = [" ".join(row.split("\t")[1].split()) for row in rows]
    fitted = {keys[place] for place in split_rows(400, 0.5, seed=0)[0].tolist()}
    number = sum(key in fitted for key in keys)
    told = f"{number} of 400 texts were seen in training ({number} fitted the temperatures)"
    for target in (("--max-drop", 0.3), ("--max-disagreement", 0.3), ("--max-f1-drop", 0.4)):
        refused = invoke("calibrate", folder, "--data", dev, *target, "--dry-run")
        assert_complaint(refused, "calibrate", f"{told}, so nothing can be guaranteed by them")
    evaluated = succeed("evaluate", folder, "--data", dev, "--backend", "none", "--speed", 0.5, "--json")
    assert json.loads(evaluated.stdout)["seen_in_training"]["fitted_temperatures"] == number
    assert told in succeed("calibrate", folder, "--data", dev, "--min-speedup", 1.1, "--dry-run").stderr

    own = tmp_path / "own.tsv"
    others = [row for row, key in zip(rows, keys, strict=True) if key not in fitted]
    own.write_text("\n".join(["label\ttext", *others]) + "\n")
    kept = succeed("calibrate", folder, "--data", own, "--max-drop", 0.3, "--one-speed", "--dry-run", "--json")
    left = succeed(
        *("calibrate", folder, "--data", dev, "--max-drop", 0.3, "--one-speed", "--dry-run", "--json"),
        "--leave-out-seen",
    )
    assert json.loads(kept.stdout)["texts"] == json.loads(left.stdout)["texts"] == len(others)


def test_a_dry_run_with_temperatures_leaves_the_texts_as_they_were(folder, dev) -> None:
    wish = ("calibrate", folder, "--data", dev, "--max-drop", 0.3, "--one-speed", "--dry-run")
    succeed(*wish, "--temperature-scaling")
    assert "seen in training" not in succeed(*wish).stderr

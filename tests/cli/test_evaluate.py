"""`fastbert evaluate`: its figures against an independent computation, its forms of output, and its complaints."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoTokenizer

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.flops import ModelShape, executed_flops, full_depth_flops
from helpers.cli import assert_complaint, invoke, succeed
from helpers.families import make_model

SPEEDS = [None, 0.2, 0.6, 1.0]
OPTIONS = [word for speed in SPEEDS[1:] for word in ("--speed", speed)]


def evaluate(*arguments):
    result = succeed("evaluate", *arguments, "--json")
    return json.loads(result.stdout)


@torch.inference_mode()
def one_by_one(folder, file, speed):
    """The row for a Speed from single texts through the unpatched model, with scores by their definition."""
    model = FastBertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    samples = [line.split("\t") for line in file.read_text().splitlines()[1:]]
    answers, layers, done, full = [], [], 0, 0
    shape = ModelShape.from_config(model.config)
    for _, text in samples:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        output = model(ids, speed=speed)
        answers.append(model.config.id2label[int(output.logits.argmax())])
        layers.append(int(output.exit_layer))
        full += int(full_depth_flops(shape, ids.shape[1]))
        done += (
            executed_flops(shape, [layers[-1]], ids.shape[1])
            if speed is not None
            else full_depth_flops(shape, ids.shape[1])
        )
    labels = [label for label, _ in samples]
    f1 = []
    for name in {*labels, *answers}:
        right = sum(label == answer == name for label, answer in zip(labels, answers, strict=True))
        f1.append(2 * right / (labels.count(name) + answers.count(name)))
    return {
        "setting": "full depth" if speed is None else f"Speed {speed:g}",
        "speed": speed,
        "accuracy": sum(map(str.__eq__, labels, answers)) / len(labels),
        "macro_f1": sum(f1) / len(f1),
        "mean_exit_layer": sum(layers) / len(layers),
        "flops_speedup": full / done,
    }


@pytest.mark.parametrize("backend", ["auto", "none"])
def test_figures_are_those_of_texts_one_by_one(trained, data, backend):
    results = evaluate(trained / "model", "--data", data / "dev.tsv", *OPTIONS, "--backend", backend)
    assert results["texts"] == 21 and results["patched"] == (backend == "auto") and results["layers"] == 3
    for row, speed in zip(results["rows"], SPEEDS, strict=True):
        assert row == pytest.approx(one_by_one(trained / "model", data / "dev.tsv", speed))
    assert len({row["mean_exit_layer"] for row in results["rows"]}) > 1


def test_figures_are_those_of_training(trained, data):
    rows = evaluate(trained / "model", "--data", data / "dev.tsv", "--backend", "none", "--batch-size", 7)["rows"]
    assert rows == json.loads((trained / "results.json").read_text())["dev"]


def test_a_table_and_a_file(trained, data, tmp_path):
    out = tmp_path / "scores.json"
    result = succeed("evaluate", trained / "model", "--data", data / "dev.tsv", "--time", "--out", out)
    for word in ("full depth", "accuracy", "macro", "FLOPs", "speed-up", "realisation"):
        assert word in result.stdout
    assert "21 texts in batches of 32, on the fast kernels" in result.stdout
    results = json.loads(out.read_text())
    assert [row["speed"] for row in results["rows"]] == [None, 0.1, 0.3, 0.5, 0.8]
    for row in results["rows"]:
        assert row["ms_per_text"] > 0
        assert row["realisation"] == pytest.approx(row["speedup"] / row["flops_speedup"])
    assert results["rows"][0]["speedup"] == 1


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {"problem_type": "multi_label_classification"}),
        ("bert", {"head_type": "pooled", "head_pooling": "max", "exit_layers": [2, 4]}),
        ("distilbert", {}),
    ],
)
def test_other_models_are_evaluated_and_predict(tiny_backbone, tmp_path, family, settings):
    folder = tmp_path / "model"
    make_model(family, id2label={0: "a", 1: "b", 2: "c"}, num_labels=3, **settings).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(folder)
    several = "problem_type" in settings
    lines = ["labels\ttext", "a|c\tgood film", "\tbad"] if several else ["label\ttext", "a\tgood film", "b\tbad"]
    (tmp_path / "data.tsv").write_text("\n".join(lines) + "\n")
    results = [
        evaluate(folder, "--data", tmp_path / "data.tsv", "--max-length", 16, "--backend", backend)
        for backend in ("auto", "none")
    ]
    rows = [result["rows"] for result in results]
    assert rows[0] == [pytest.approx(row) for row in rows[1]]
    assert results[0]["patched"]

    answers = [
        succeed("predict", folder, tmp_path / "data.tsv", "--max-length", 16, "--speed", 0.9, "--backend", backend)
        for backend in ("auto", "none")
    ]
    labels = [[line.split("\t")[0] for line in answer.stdout.splitlines()] for answer in answers]
    assert labels[0] == labels[1] and len(labels[0]) == 3
    assert "note: this model runs without the fast kernels" not in answers[0].stderr


def test_pairs_of_texts(trained, data):
    assert evaluate(trained / "model", "--data", data / "pairs.tsv")["texts"] == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "{data}/absent.tsv"], "absent.tsv: cannot be read"),
        (["--data", "{data}/unknown.tsv"], "line 3: unknown label 'maybe'; use one of the training labels (no, yes)"),
        (["--data", "{data}/several.tsv"], "no column label among: labels, text"),
        (["--data", "{data}/dev.tsv", "--max-length", "64"], "max_length is 64, but the model ends at 32 tokens"),
        (
            ["--data", "{data}/dev.tsv", "--max-length", "2"],
            "max_length must be above 2 (the special tokens)",
        ),
        (["--data", "{data}/dev.tsv", "--split", "test"], "a file has no splits"),
        (["--data", "{data}/dev.tsv", "--backend", "no"], "no"),
        (
            ["--data", "{data}/dev.tsv", "--backend", "none", "--dtype", "bf16"],
            "--dtype and --backend none do not go together",
        ),
        (["--data", "{data}/dev.tsv", "--bf16-product", "output"], "give both or neither"),
        (["--data", "{data}/dev.tsv", "--dtype", "int8", "--bf16-product", "key"], "unknown --bf16-product 'key'"),
        (["--data", "{data}/dev.tsv", "--out", "{data}/no/x.json"], "no such folder; make it first"),
        (["--data", "{data}/dev.tsv", "--out", "{data}"], "a folder; name a file"),
    ],
)
def test_complaints_are_one_line(trained, data, options, message):
    (data / "unknown.tsv").write_text("label\ttext\nno\tbad\nmaybe\tgood\n")
    result = invoke("evaluate", trained / "model", *(option.format(data=data) for option in options))
    assert_complaint(result, "evaluate", message)
    assert result.stdout == ""


def test_a_folder_without_a_model(data, tmp_path):
    result = invoke("evaluate", tmp_path / "absent", "--data", data / "dev.tsv")
    assert_complaint(result, "evaluate", "absent: no such folder; name a folder into which")


def test_texts_are_cut_off_where_those_of_the_training_were_and_counted(trained, data):
    model, file = trained / "model", data / "dev.tsv"
    results = evaluate(model, "--data", file, "--speed", 0.5)
    assert (results["max_length"], results["truncated"]) == (16, 0)
    result = succeed("evaluate", model, "--data", file, "--speed", 0.5, "--max-length", 5, "--json")
    results = json.loads(result.stdout)
    longer = sum(len(line.split("\t")[1].split()) > 3 for line in file.read_text().splitlines()[1:])
    assert (results["max_length"], results["truncated"]) == (5, longer) and longer > 0
    note = f"note: {longer} texts are longer than 5 tokens and were cut off; --max-length sets where"
    assert note in result.stderr
    assert note in succeed("predict", model, file, "--max-length", 5).stderr
    assert "cut off" not in succeed("predict", model, file).stderr


def test_passages_have_one_answer_for_each_text(trained, data):
    model = FastBertForSequenceClassification.from_pretrained(trained / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    samples = [line.split("\t") for line in (data / "dev.tsv").read_text().splitlines()[1:]]
    shape = ModelShape.from_config(model.config)
    layers, full, done, right, count = [], 0, 0, 0, 0
    for label, text in samples:
        words = text.split()  # each a token; three fit, and one is shared
        parts = [" ".join(words[start : start + 3]) for start in range(0, max(len(words) - 1, 1), 2)]
        with torch.inference_mode():
            outputs = [model(**tokenizer(part, return_tensors="pt"), speed=0.5) for part in parts]
        probabilities = torch.cat([output.logits.softmax(-1) for output in outputs]).mean(0)
        right += model.config.id2label[int(probabilities.argmax())] == label
        layers.append(max(int(output.exit_layer) for output in outputs))
        for part, output in zip(parts, outputs, strict=True):
            length = len(part.split()) + 2
            full += int(full_depth_flops(shape, length))
            done += int(executed_flops(shape, [int(output.exit_layer)], length))
        count += len(parts)
    options = ("--data", data / "dev.tsv", "--speed", 0.5, "--max-length", 5, "--stride", 1, "--agreement")
    results = evaluate(trained / "model", *options)
    assert (results["texts"], results["passages"], results["truncated"]) == (21, count, 0) and count > 21
    row = results["rows"][1]
    assert row["accuracy"] == pytest.approx(right / 21) and row["flops_speedup"] == pytest.approx(full / done)
    assert row["mean_exit_layer"] == pytest.approx(sum(layers) / 21)
    shown = succeed("evaluate", trained / "model", *options, "--time").stdout
    assert f"21 texts in {count} passages in batches of 32" in shown and f"unpatched model, {count} passages" in shown


def test_agreement_is_counted(trained, data):
    arguments = (trained / "model", "--data", data / "dev.tsv", "--speed", 0.5, "--agreement")
    found = evaluate(*arguments)["agreement"]
    assert (found["answers"], found["other_labels"], found["other_exit_layers"]) == (42, 0, 0)
    assert "0 of 42 labels differ, 0 of " in succeed("evaluate", *arguments).stdout
    result = invoke("evaluate", *arguments, "--backend", "none")
    assert_complaint(result, "evaluate", "--agreement and --backend none do not go together")


def test_scores_by_class_and_errors(trained, data, tmp_path):
    rows = ["no\ta very good film", "yes\tgood book", "no\tbad film", "yes\tbad, is it"]
    (tmp_path / "own.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    call = ("evaluate", trained / "model", "--data", tmp_path / "own.tsv", "--speed", 0.5, "--by-class")
    told = succeed(*call, "--errors", tmp_path / "errors.jsonl").stdout
    found = json.loads(succeed(*call, "--json").stdout)
    assert [one["setting"] for one in found["by_class"]] == ["full depth", "Speed 0.5"]
    full = found["by_class"][0]
    matrix = full["confusion"]
    assert sum(map(sum, matrix)) == 4 and (matrix[0][0] + matrix[1][1]) / 4 == found["rows"][0]["accuracy"]
    for index, one in enumerate(full["classes"]):
        assert one["texts"] == 2 and one["recall"] == matrix[index][index] / 2 and one["exit_layers"] == [0, 0, 2]
    assert "by class, at Speed 0.5" in told and "texts of a class (rows) by what they are taken for" in told
    errors = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert len(errors) == round(4 * (1 - found["rows"][1]["accuracy"])) > 0
    for error in errors:
        assert rows[error["row"] - 1] == f"{error['label']}\t{error['text']}" and error["predicted"] != error["label"]
    assert [error["uncertainty"] for error in errors] == sorted(error["uncertainty"] for error in errors)
    succeed(*call, "--errors", tmp_path / "errors.tsv")
    assert len((tmp_path / "errors.tsv").read_text().splitlines()) == 1 + len(errors)
    succeed(*call, "--confusion", tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    refused = invoke(*call, "--confusion", tmp_path / "confusion.svg")
    assert_complaint(refused, "evaluate", "confusion.svg: unknown ending; name it .png")
    refused = invoke(*call, "--errors", tmp_path / "errors.txt")
    assert_complaint(refused, "evaluate", "errors.txt: unknown ending; name it .tsv, .csv, .jsonl, .ndjson")

"""What `evaluate` shows below its table of sets that the tests of the whole command do not have."""

from __future__ import annotations

import csv

import torch
from rich.console import Console

from fastbert_cli.evaluate.details import Details
from fastbert_hf.data import ClassificationData
from fastbert_hf.training import EvaluationResult

NAMES = [f"class {number:02}" for number in range(14)]


def details(data, labels, predictions):
    """Return answers at layer 1 of 2, each text a little less sure than the one before."""
    count = len(labels)
    layers = torch.ones(count, dtype=torch.int64)
    unsure = torch.arange(count) / count
    found = Details(data, 2)
    found.add({"setting": "full depth"}, EvaluationResult(0.0, 0.0, labels, predictions, layers, unsure, layers))
    return found


def many_classes(labels, predictions):
    data = ClassificationData(
        [f'text "{row}", of it' for row in range(len(labels))], pairs=None, label_ids=labels, label_names=NAMES
    )
    return details(data, torch.tensor(labels), torch.tensor(predictions))


def shown(found):
    console = Console(record=True, width=200)
    found.show(console)
    return console.export_text()


def pairs_shown(found):
    """The rows of the table of classes that are taken for others, below its header."""
    words = shown(found)
    assert "for another most often" in " ".join(words.split())
    _, below = words.split("taken for  texts")
    return [line.split("  ") for line in below.splitlines() if line.strip()]


def test_of_many_classes_the_pairs_taken_for_each_other_most_are_listed():
    rows = pairs_shown(many_classes([0, 0, 0, 5, 5, 13], [1, 1, 0, 13, 13, 13]))
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows] == [
        ["class 00", "class 01", "2"],
        ["class 05", "class 13", "2"],
    ]


def test_no_class_is_taken_for_another():
    assert pairs_shown(many_classes([0, 5], [0, 5])) == []


def test_errors_in_csv_are_quoted(tmp_path):
    many_classes([0, 5, 13], [1, 5, 2]).write_errors(tmp_path / "errors.csv")
    with open(tmp_path / "errors.csv", newline="") as file:
        first, *rows = csv.reader(file)
    assert first == ["row", "label", "predicted", "uncertainty", "exit_layer", "text"]
    assert rows == [
        ["1", "class 00", "class 01", "0.0", "1", 'text "0", of it'],
        ["3", "class 13", "class 02", "0.666667", "1", 'text "2", of it'],
    ]


def test_errors_of_texts_with_several_classes_name_all(tmp_path):
    data = ClassificationData(["a", "b"], None, label_ids=[[0, 2], []], label_names=NAMES[:3], multi_label=True)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0]])
    predictions = torch.tensor([[True, True, False], [False, False, False]])
    details(data, labels, predictions).write_errors(tmp_path / "errors.tsv")
    _, row = (tmp_path / "errors.tsv").read_text().splitlines()
    cells = row.split("\t")
    assert [cells[1].count("class"), cells[2].count("class")] == [2, 2]
    assert "class 02" in cells[1] and "class 01" in cells[2]

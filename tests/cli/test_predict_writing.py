"""The rows that `fastbert predict` writes, from answers that no model needs to give."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fastbert_cli.predict import run
from fastbert_cli.predict.writing import Layout, output
from fastbert_hf import Predictions
from fastbert_hf.data.labels import split_labels


def write_rows(path, part, safe=None, classes=()):
    with output(path, Layout(classes=classes, multi_label=part.multi_label, safe=safe)) as write:
        for row in run._rows([part], len(classes), run._Counts()):
            write([], row)


def test_json_has_no_nan(tmp_path):
    part = Predictions(
        start=0,
        logits=torch.tensor([[math.nan, 0.0], [0.0, 0.0]]),
        uncertainty=torch.tensor([math.nan, 1.0]),
        exit_layer=torch.tensor([4, 1]),
        truncated=torch.tensor([False, True]),
        id2label={0: "no", 1: "yes"},
    )
    for name, want in (("o.jsonl", '"probability": null, "uncertainty": null'), ("o.tsv", "nan\tnan\t4")):
        write_rows(tmp_path / name, part)
        assert want in (tmp_path / name).read_text()


@pytest.mark.parametrize(
    ("name", "safe", "expected"),
    [
        ("o.csv", None, '"\'=1+1, x",0.5'),
        ("o.csv", False, '"=1+1, x",0.5'),
        ("o.tsv", None, "=1+1, x\t0.5"),
        ("o.tsv", True, "'=1+1, x\t0.5"),
        ("o.jsonl", None, '{"label": "=1+1, x"'),
    ],
)
def test_labels_that_a_spreadsheet_would_run(tmp_path, name, safe, expected):
    part = Predictions(
        start=0,
        logits=torch.zeros(1, 2),
        uncertainty=torch.ones(1),
        exit_layer=torch.ones(1, dtype=torch.int64),
        truncated=torch.zeros(1, dtype=torch.bool),
        id2label={0: "=1+1, x", 1: "no"},
    )
    write_rows(tmp_path / name, part, safe)
    assert (tmp_path / name).read_text().splitlines()[-1].startswith(expected)


@pytest.mark.parametrize("name", ["o.tsv", "o.jsonl"])
def test_probabilities_of_all_classes(tmp_path, name):
    part = Predictions(
        start=0,
        logits=torch.tensor([[1.0, 2.0], [math.nan, 0.0]]),
        uncertainty=torch.tensor([0.5, math.nan]),
        exit_layer=torch.ones(2, dtype=torch.int64),
        truncated=torch.zeros(2, dtype=torch.bool),
        id2label={0: "no", 1: "yes"},
    )
    write_rows(tmp_path / name, part, classes=["no", "yes"])
    want = [round(1 / (1 + math.e), 6), round(math.e / (1 + math.e), 6)]
    lines = (tmp_path / name).read_text().splitlines()
    if name == "o.jsonl":
        records = [json.loads(line)["probabilities"] for line in lines]
        assert records[0] == pytest.approx(dict(zip(("no", "yes"), want, strict=True)), abs=2e-6)
        assert records[1] == {"no": None, "yes": None}
    else:
        assert lines[0].split("\t")[-2:] == ["probability of no", "probability of yes"]
        assert [float(cell) for cell in lines[1].split("\t")[-2:]] == pytest.approx(want, abs=2e-6)


def test_labels_with_separators_are_read_back_from_a_table(tmp_path):
    part = Predictions(
        start=0,
        logits=torch.tensor([[1.0, 2.0, -1.0], [-1.0, -1.0, 1.0]]),
        uncertainty=torch.zeros(2),
        exit_layer=torch.ones(2, dtype=torch.int64),
        truncated=torch.zeros(2, dtype=torch.bool),
        id2label={0: "a|b", 1: "c\\", 2: "d"},
        multi_label=True,
    )
    write_rows(tmp_path / "o.tsv", part)
    rows = [line.split("\t") for line in (tmp_path / "o.tsv").read_text().splitlines()[1:]]
    assert [split_labels(row[0]) for row in rows] == [["a|b", "c\\"], ["d"]]

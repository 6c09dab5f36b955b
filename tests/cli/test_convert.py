"""`fastbert convert`: what it prints and writes, and its complaints."""

from __future__ import annotations

import json

import pytest
import torch

from helpers.cli import assert_complaint, invoke, succeed
from helpers.uer_checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_checkpoint("fastbert", tmp_path_factory.mktemp("fastbert"))


def test_a_converted_model_answers(made, tmp_path):
    files = ["--vocab", made["vocabulary"], "--config", made["settings"]]
    labels = ["--label", "no", "--label", "maybe", "--label", "yes"]
    result = succeed("convert", made["checkpoint"], "--to", tmp_path / "out", *files, *labels)
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    for line in (
        "format: fastbert (by its names)",
        f"mapped: {len(report['mapped'])} parameters",
        "left out: 10 parameters, pretraining head: kernel.target.mlm_linear_1.weight",
        "row 0 (padding) is left out",
        "equal exits: 100.00%",
        f"written: {tmp_path / 'out'}",
        *report["notes"],
    ):
        assert line in result.stdout
    for layer in report["comparison"]["layers"]:
        assert f"{layer['logits_float64']:.1e}" in result.stdout and f"{layer['uncertainty']:.1e}" in result.stdout

    (tmp_path / "texts.txt").write_text("the film is good\nnot bad !\n")
    answers = succeed("predict", tmp_path / "out", tmp_path / "texts.txt", "--speed", 0.5, "--out", tmp_path / "a.tsv")
    assert answers.exit_code == 0
    lines = (tmp_path / "a.tsv").read_text().splitlines()
    assert len(lines) == 3 and all(line.split("\t")[0] in {"no", "maybe", "yes"} for line in lines[1:])


def test_complaints_are_one_line(made, tmp_path):
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "other.bin")
    for words, message in (
        ([tmp_path / "other.bin"], "of no format known here"),
        ([made["checkpoint"]], "how many attention heads has this model?"),
        ([made["checkpoint"], "--format", "onnx"], "unknown format 'onnx'; choose one of fastbert, fastplm, script"),
        ([tmp_path / "absent.bin"], "absent.bin: cannot be read"),
    ):
        assert_complaint(invoke("convert", *words, "--to", tmp_path / "out"), "convert", message)
    assert not (tmp_path / "out").exists()

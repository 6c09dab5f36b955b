"""No command writes over what it reads, nor two outputs into one file; and what it read is as it was."""

from __future__ import annotations

import os
import shutil

import pytest

from helpers.cli import assert_complaint, invoke, succeed


@pytest.fixture
def place(trained, data, tmp_path):
    """A folder with copies of a model, labelled texts, and a folder of such texts."""
    shutil.copytree(trained / "model", tmp_path / "model")
    shutil.copy(data / "dev.tsv", tmp_path / "dev.tsv")
    (tmp_path / "set").mkdir()
    shutil.copy(data / "dev.tsv", tmp_path / "set" / "test.tsv")
    (tmp_path / "link.tsv").symlink_to("dev.tsv")
    (tmp_path / "hard.tsv").hardlink_to(tmp_path / "dev.tsv")
    return tmp_path


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


READ = "that is what is read here; choose another name"
EVALUATE = ["evaluate", "{place}/model", "--data", "{place}/dev.tsv"]
FOLDER = ["evaluate", "{place}/model", "--data", "{place}/set", "--split", "test"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*EVALUATE, "--errors", "{place}/dev.tsv"], READ),
        ([*EVALUATE, "--errors", "{place}/model/../dev.tsv"], READ),
        ([*EVALUATE, "--errors", "{place}/link.tsv"], READ),
        ([*EVALUATE, "--errors", "{place}/hard.tsv"], READ),
        ([*EVALUATE, "--out", "{place}/dev.tsv"], READ),
        ([*EVALUATE, "--out", "{place}/model/config.json"], "is a file of {place}/model, and that is what is read"),
        ([*FOLDER, "--errors", "{place}/set/test.tsv"], "is a file of {place}/set, and that is what is read here"),
        (
            [*EVALUATE, "--errors", "{place}/new.jsonl", "--out", "{place}/model/../new.jsonl"],
            "--out and --errors both write {place}/new.jsonl; give each a file of its own",
        ),
        (["predict", "{place}/model", "{place}/dev.tsv", "--out", "{place}/link.tsv"], READ),
        (["predict", "{place}/model", "{place}/set", "--out", "{place}/set/test.tsv"], READ),
        (["distill", "{place}/model", "--texts", "{place}/dev.tsv", "--out", "{place}/model"], "folder of the model"),
        (["adopt", "{place}/model", "--texts", "{place}/dev.tsv", "--out", "{place}/model/"], "folder of the model"),
        (["export", "{place}/model", "--to", "{place}/model"], "exists; choose another name"),
    ],
)
def test_what_is_read_is_not_written_over(place, words, message):
    before = contents(place)
    refused = invoke(*(word.format(place=place) for word in words))
    assert_complaint(refused, words[0], message.format(place=place))
    assert contents(place) == before


@pytest.mark.parametrize("option", ["--data", "--train", "--compare"])
def test_an_analysis_does_not_replace_a_folder_that_holds_what_it_reads(place, option):
    figures = place / "page" / "figures"
    figures.parent.mkdir()
    shutil.copytree(place / "model", figures)
    shutil.copy(place / "dev.tsv", figures / "dev.tsv")
    words = ["analyze", place / "model", "--data", place / "dev.tsv", "--out", place / "page"]
    words += [option, figures if option == "--compare" else figures / "dev.tsv"]
    before = contents(place)
    assert_complaint(invoke(*words), "analyze", "page is replaced as a whole, and ")
    assert contents(place) == before


def test_a_demo_replaces_neither_a_run_nor_what_it_reads(trained, place):
    texts = ["--train", place / "dev.tsv", "--dev", place / "model" / "dev.tsv"]
    shutil.copy(place / "dev.tsv", place / "model" / "dev.tsv")
    before = contents(place)
    assert_complaint(invoke("demo", *texts, "--out", place), "demo", "model is replaced as a whole, and ")
    assert contents(place) == before
    before = contents(trained)
    assert_complaint(invoke("demo", "--out", trained), "demo", "holds a run of fastbert train or distill")
    assert contents(trained) == before


def test_results_are_written_again(place):
    for _ in range(2):
        succeed(
            *("evaluate", place / "model", "--data", place / "set", "--split", "test", "--backend", "none"),
            *("--speed", 0.5, "--errors", place / "errors.tsv", "--out", place / "scores.json"),
        )


def test_a_file_that_the_shell_gives_as_standard_input_is_not_written_over(place):
    call = ("predict", place / "model", "-", "--input-format", "tsv", "--out")
    before = contents(place)
    kept = os.dup(0)
    try:
        with open(place / "dev.tsv") as file:
            os.dup2(file.fileno(), 0)
        assert_complaint(invoke(*call, place / "link.tsv"), "predict", "that is what is read here, from standard input")
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert contents(place) == before

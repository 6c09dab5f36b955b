"""Data sets of the `datasets` library, from local folders only."""

from __future__ import annotations

import sys
from pathlib import Path

import datasets
import pytest

from fastbert_hf.data import DataFileError, read_classification_data

NAMES = ["bad", "good", "unused"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def make(size: int = 2500, **columns: object) -> datasets.Dataset:
    features = datasets.Features(
        {
            "idx": datasets.Value("int32"),
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=NAMES),
        }
    )
    rows = {
        "idx": list(range(size)),
        "sentence1": [f"a {number}" for number in range(size)],
        "sentence2": [f"b {number}" for number in range(size)],
        "label": [number % 2 for number in range(size)],
    }
    return datasets.Dataset.from_dict(rows | columns, features=features)


def test_saved_data_set_keeps_order_pairs_and_class_names(tmp_path: Path) -> None:
    make().with_format("numpy").save_to_disk(tmp_path / "one")
    data = read_classification_data(tmp_path / "one")
    assert data.texts == [f"a {number}" for number in range(2500)]
    assert data.pairs == [f"b {number}" for number in range(2500)]
    assert data.label_ids == [number % 2 for number in range(2500)]
    assert data.label_names == NAMES and data.id2label == {0: "bad", 1: "good", 2: "unused"}
    assert read_classification_data(tmp_path / "one", ["good", "bad"]).label_ids[:3] == [1, 0, 1]
    columns = read_classification_data(tmp_path / "one", text_column="sentence2", label_column="idx")
    assert columns.texts[0] == "b 0" and columns.pairs is None and len(columns.label_names) == 2500
    for options, problem in (
        (dict(split="dev"), "not known to be the split dev; leave the split out"),
        (dict(subset="sst2"), "a saved data set has no subsets; leave the subset out"),
        (dict(label_column="klass"), "no column klass among: idx, sentence1, sentence2, label; rename"),
        (dict(label_names=["good", "fair"]), r"one, row 1: unknown label 'bad'; use one of .*\(good, fair\)"),
    ):
        with pytest.raises(DataFileError, match=problem):
            read_classification_data(tmp_path / "one", **options)


def test_splits(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": make(4), "dev": make(6)}).save_to_disk(tmp_path / "both")
    assert len(read_classification_data(str(tmp_path / "both"), split="dev")) == 6
    for split, problem in (
        (None, "several splits; choose one of train, dev"),
        ("test", "no split test; choose one of"),
    ):
        with pytest.raises(DataFileError, match=problem):
            read_classification_data(tmp_path / "both", split=split)
    datasets.DatasetDict({"train": make(4)}).save_to_disk(tmp_path / "one")
    assert len(read_classification_data(tmp_path / "one")) == 4


def test_folder_of_files_that_datasets_knows(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    make(4).to_parquet(folder / "train-00000-of-00002.parquet")
    make(6).to_parquet(folder / "train-00001-of-00002.parquet")
    make(2).to_parquet(folder / "test-00000-of-00001.parquet")
    data = read_classification_data(folder, split="train")
    assert len(data) == 10 and data.label_names == NAMES
    assert len(read_classification_data(folder, split="train[:3]")) == 3
    with pytest.raises(DataFileError, match="several splits; choose one of train, test"):
        read_classification_data(folder)
    with pytest.raises(
        DataFileError, match=r"datasets cannot load it \(.*\); check path or name, subset and split"
    ) as caught:
        read_classification_data(folder, split="dev")
    assert "\n" not in str(caught.value)


def test_folder_with_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train-0.jsonl").write_text('{"text": "x", "label": }')
    with pytest.raises(DataFileError, match=r"folder: datasets cannot load it \(.*: .*JSON.*\); check path") as caught:
        read_classification_data(tmp_path / "folder", split="train")
    assert "\n" not in str(caught.value)


def test_file_of_a_split_is_read_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dev.tsv").write_text('label\ttext\n0\tNA\n1\t"quoted\n')
    data = read_classification_data(tmp_path, split="dev")
    # Neither a missing value nor the start of a quoted field, as a reader of tables with types would have it.
    assert data.texts == ["NA", '"quoted']
    assert read_classification_data(tmp_path / "dev.tsv") == data
    (tmp_path / "dev.csv").write_text("label,text\n")
    for source, split, problem in (
        (tmp_path, "dev", "several files for the split dev: dev.csv, dev.tsv; name the file itself"),
        (tmp_path / "dev.tsv", "dev", "a file has no splits or subsets; name the folder"),
        (tmp_path / "absent.tsv", None, "cannot be read"),
        (tmp_path, "test", "no file for the split test; choose one of dev$"),
        (tmp_path, None, "the split is not named; choose one of dev$"),
        ("glue", "test", "neither a file .* without the library datasets; check the path, or pip install datasets"),
    ):
        with pytest.raises(DataFileError, match=problem):
            read_classification_data(source, split=split)


def test_labels_that_are_hidden_null_or_lists(tmp_path: Path) -> None:
    make(3, label=[0, 1, -1]).save_to_disk(tmp_path / "hidden")
    with pytest.raises(DataFileError, match="hidden, row 3: label is -1, which means unknown; use the labelled part"):
        read_classification_data(tmp_path / "hidden")
    make(3, label=[0, 1, None]).save_to_disk(tmp_path / "null")
    with pytest.raises(DataFileError, match="null, row 3: label is null"):
        read_classification_data(tmp_path / "null")
    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.List(datasets.ClassLabel(names=NAMES))}
    )
    lists = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "labels": [[1, 0], [], [0]]}, features=features)
    lists.save_to_disk(tmp_path / "lists")
    lists.to_parquet(tmp_path / "lists.parquet")
    for source in ("lists", "lists.parquet"):
        data = read_classification_data(tmp_path / source, multi_label=True)
        assert data.multi_label and data.label_ids == [[0, 1], [], [0]] and data.label_names == NAMES


def test_name_that_is_neither_here_nor_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, name: str | None, split: str | None) -> None:
        raise datasets.exceptions.DatasetNotFoundError(f"no {path}\n{name}, {split}")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        DataFileError, match=r"^glue: datasets cannot load it \(no glue sst2, dev\); check path or name"
    ):
        read_classification_data("glue", subset="sst2", split="dev")

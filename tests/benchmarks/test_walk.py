"""The walk from files to served answers: who sees which texts, and what stops it. The walk itself is run by hand."""

from __future__ import annotations

import pytest

import walk
from fastbert_hf.data import ClassificationData, read_classification_file
from module_docstrings import ModuleDocstrings


def part(size: int, begin: int) -> ClassificationData:
    labels = [0, 0, 1, 2] * (size // 4)
    return ClassificationData([f"text {begin + number}" for number in range(size)], None, labels, ["a", "b", "c"])


def test_no_text_is_in_two_files_and_the_largest_classes_are_taken(tmp_path):
    data = ModuleDocstrings(part(80, 0), part(40, 1000), part(40, 2000), {})
    walk.write_files(tmp_path, data, classes=2, texts=30)
    files = {name: read_classification_file(tmp_path / f"{name}.tsv") for name in ("train", "dev", "own", "test")}
    assert {name: len(file) for name, file in files.items()} == {"train": 30, "dev": 15, "own": 45, "test": 30}
    assert len({text for file in files.values() for text in file.texts}) == 120
    assert all(set(file.label_names) == {"a", "b"} for file in files.values())


def test_a_command_that_fails_ends_the_walk(tmp_path, capfd):
    with pytest.raises(SystemExit, match="fastbert evaluate ended with status 2"):
        walk.command("evaluate", tmp_path / "absent", "--data", tmp_path / "absent.tsv")
    assert "$ fastbert evaluate" in capfd.readouterr().out

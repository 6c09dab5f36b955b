"""Labelled tables, and what every format has in common: columns, ids of classes, complaints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy
import pyarrow
import pytest
import torch
from pyarrow import parquet

from fastbert_hf.data import (
    ClassificationData,
    DataFileError,
    TextData,
    join_texts,
    read_classification_file,
    read_unlabelled_texts,
    text_column_names,
)
from fastbert_hf.data.labels import join_labels, split_labels
from helpers.data_files import write


def write_rows(tmp_path: Path, suffix: str, rows: list[dict]) -> Path:
    """The same rows in any format; no quoting, no check."""
    path = tmp_path / f"d{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = {".tsv": "\t", ".csv": ","}[suffix]
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines))
    return path


every_format = pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])


def test_tsv_takes_quotation_marks_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "d.tsv", 'label\ttext\n1\the said "no\n0\t"quoted", with comma\n')
    data = read_classification_file(path)
    assert data.texts == ['he said "no', '"quoted", with comma']
    assert (data.label_ids, data.label_names, data.pairs) == ([1, 0], ["0", "1"], None)


def test_csv_has_the_usual_quoting(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", 'text,label\n"one, ""two""",b\n"three\nfour",a\n')
    data = read_classification_file(path)
    assert data.texts == ['one, "two"', "three\nfour"]
    assert (data.label_ids, data.label_names, data.id2label) == ([1, 0], ["a", "b"], {0: "a", 1: "b"})


def test_pairs_other_columns_blank_lines_bom_and_windows_line_ends(tmp_path: Path) -> None:
    content = "\ufeffid\tText_A\tlabel\tText_B\r\n7\tx\tyes\ty\r\n\r\n8\tz\tno\tw\r\n"
    data = read_classification_file(write(tmp_path, "d.TSV", content))
    assert (data.texts, data.pairs, data.label_ids) == (["x", "z"], ["y", "w"], [1, 0])


def test_text_of_any_length(tmp_path: Path) -> None:
    long = "long " * 60_000
    data = read_classification_file(write(tmp_path, "d.tsv", f"label\ttext\n0\t{long}\n1\tx\n"))
    assert data.texts == [long.strip(), "x"]
    with pytest.raises(DataFileError, match=r"line 2: broken line \(field larger.*longer texts go into .tsv"):
        read_classification_file(write(tmp_path, "d.csv", f"label,text\n0,{long}\n1,x\n"))


@every_format
def test_text_a_alone_is_a_single_text(tmp_path: Path, suffix: str) -> None:
    data = read_classification_file(
        write_rows(tmp_path, suffix, [dict(label=0, text_a="x"), dict(label=1, text_a="y")])
    )
    assert (data.texts, data.pairs) == (["x", "y"], None)


@every_format
@pytest.mark.parametrize(
    ("there", "text", "pair"),
    [
        (["sentence"], "sentence", None),
        (["sentence2", "sentence1"], "sentence1", "sentence2"),
        (["question1", "question2"], "question1", "question2"),
        (["premise", "hypothesis"], "premise", "hypothesis"),
        (["sentence", "question"], "question", "sentence"),
        (["sentence", "text"], "text", None),
        (["text_b", "text_a", "sentence"], "text_a", "text_b"),
    ],
)
def test_names_of_glue_when_ours_are_not_there(
    tmp_path: Path, suffix: str, there: list[str], text: str, pair: str | None
) -> None:
    rows = [{"idx": 7} | {name: f"{name} {number}" for name in there} | {"label": number} for number in range(2)]
    data = read_classification_file(write_rows(tmp_path, suffix, rows))
    assert data.texts == [f"{text} 0", f"{text} 1"]
    assert data.pairs == (None if pair is None else [f"{pair} 0", f"{pair} 1"])
    assert text_column_names(there) == (text, pair)


@every_format
def test_columns_by_name(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "no", "Body": f"b{n}", "Other": f"o{n}", "class": f"c{n}", "label": 5} for n in range(2)]
    path = write_rows(tmp_path, suffix, rows)
    data = read_classification_file(path, text_column="body", pair_column="Other", label_column="class")
    assert (data.texts, data.pairs, data.label_names) == (["b0", "b1"], ["o0", "o1"], ["c0", "c1"])
    single = read_classification_file(path, text_column="Body", label_column="class")
    assert (single.texts, single.pairs) == (["b0", "b1"], None)
    for columns, problem in (
        (dict(text_column="boddy"), r"no column boddy among: text, (B|b)ody, (O|o)ther, class, label; check the name"),
        (dict(text_column="Body", pair_column="x"), "no column x among: text"),
        (dict(label_column="klass"), "no column klass among: text"),
        (dict(text_column="Body", label_column="Body"), "column (B|b)ody is chosen twice"),
    ):
        with pytest.raises(DataFileError, match=problem):
            read_classification_file(path, **columns)
    with pytest.raises(ValueError, match="pair_column goes with text_column"):
        read_classification_file(path, pair_column="Other")


def test_integer_labels_sort_as_numbers_and_names_as_text(tmp_path: Path) -> None:
    rows = "".join(f"{label}\tx{label}\n" for label in (10, 9, -1))
    assert read_classification_file(write(tmp_path, "i.tsv", "label\ttext\n" + rows)).label_names == ["-1", "9", "10"]
    data = read_classification_file(write(tmp_path, "s.tsv", "label\ttext\n10\tx\n9\ty\nz9\tz\n"))
    assert data.label_names == ["10", "9", "z9"]


@every_format
def test_second_file_uses_the_ids_of_the_first(tmp_path: Path, suffix: str) -> None:
    path = write_rows(tmp_path, suffix, [dict(label="c", text="x")])
    data = read_classification_file(path, label_names=["a", "c", "b"])
    assert (data.label_ids, data.label_names) == ([1], ["a", "c", "b"])
    with pytest.raises(ValueError, match="label_names has a name twice: a, c, a; name every class once"):
        read_classification_file(path, label_names=["a", "c", "a"])


@every_format
def test_unknown_label_single_class_and_missing_file(tmp_path: Path, suffix: str) -> None:
    path = write_rows(tmp_path, suffix, [dict(label="a", text="x"), dict(label="q", text="y")])
    place = "row 2" if suffix == ".parquet" else "line 2" if suffix == ".jsonl" else "line 3"
    with pytest.raises(DataFileError, match=rf"{place}: unknown label 'q'; use one of the training labels \(a, b\)"):
        read_classification_file(path, label_names=["a", "b"])
    with pytest.raises(DataFileError, match=r"the training labels \(0, 1,.*, 19, and 80 more\)$"):
        read_classification_file(path, label_names=[str(number) for number in range(100)])
    path = write_rows(tmp_path, suffix, [dict(label="a", text="x"), dict(label="a", text="y")])
    with pytest.raises(DataFileError, match="only one class, 'a'; a classifier needs samples of two or more"):
        read_classification_file(path)
    with pytest.raises(DataFileError, match=r"absent.*: cannot be read \(No such file or directory\); check the path"):
        read_classification_file(tmp_path / f"absent{suffix}")


def test_long_values_are_cut_off_in_messages(tmp_path: Path) -> None:
    path = write(tmp_path, "d.tsv", f"label\ttext\n{'x' * 1000}\ta\n")
    with pytest.raises(DataFileError) as caught:
        read_classification_file(path, label_names=["a", "b"])
    assert len(str(caught.value)) < 200 + len(str(path))


@every_format
@pytest.mark.parametrize("labelled", [True, False])
def test_unlabelled_texts_from_every_format(tmp_path: Path, suffix: str, labelled: bool) -> None:
    label = {"label": 0} if labelled else {}
    path = write_rows(tmp_path, suffix, [dict(text="x", id=1) | label, dict(text="y", id=2) | label])
    assert read_unlabelled_texts(path) == TextData(["x", "y"], None)
    path = write_rows(tmp_path, suffix, [dict(p="x", q="y") | label])
    assert read_unlabelled_texts(path, "p", "q") == TextData(["x"], ["y"])


def test_unlabelled_lines(tmp_path: Path) -> None:
    assert read_unlabelled_texts(write(tmp_path, "d.txt", '\ufeff"one"\r\ntwo\tthree')).texts == ['"one"', "two\tthree"]
    assert read_unlabelled_texts(write(tmp_path, "d.txt", "one\n\n \ntwo\n\n")).texts == ["one", "two"]  # as in tables
    for content, columns, problem in (
        ("", (), "d.txt: no samples"),
        ("one\n", ("text",), "a .txt file has no columns; leave text_column out"),
    ):
        with pytest.raises(DataFileError, match=problem):
            read_unlabelled_texts(write(tmp_path, "d.txt", content), *columns)


def test_labelled_and_unlabelled_texts_join_without_labels() -> None:
    labelled = ClassificationData(["a", "b"], None, [0, 1], ["x", "y"])
    joined = join_texts(labelled, TextData([], []), TextData(["c"], None))
    assert joined == TextData(["a", "b", "c"], None) and type(joined) is TextData
    pairs = replace(labelled, pairs=["c", "d"])
    assert join_texts(pairs, TextData(["e"], ["f"])) == TextData(["a", "b", "e"], ["c", "d", "f"])
    assert join_texts() == TextData([], None)
    with pytest.raises(ValueError, match=r"cannot join .* \(single texts, pairs\); use one kind"):
        join_texts(labelled, pairs)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 texts but 1 second texts"):
        TextData(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="2 texts but 1 labels"):
        ClassificationData(["a", "b"], None, [0], ["x", "y"])


@pytest.mark.parametrize(
    "labels",
    [(0, 1, 1), numpy.array([0, 1, 1]), torch.tensor([0, 1, 1]), [0.0, 1.0, 1.0], list(numpy.array([0, 1, 1]))],
    ids=["tuple", "NumPy", "tensor", "whole floats", "NumPy numbers"],
)
def test_labels_of_any_container(labels: object) -> None:
    data = ClassificationData(numpy.array(["a", "b", "c"]), None, labels, ("x", "y"))
    assert data.label_ids == [0, 1, 1] and all(type(label) is int for label in data.label_ids)
    assert data.texts == ["a", "b", "c"] and data.label_names == ["x", "y"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 2], "label of text 1 is 2, but the 2 classes are 0 to 1; number them from 0"),
        ([0, -1, 1], "label of text 1 is -1"),
        ([0, 1, 0.5], "label of text 2 is 0.5, not a class id"),
        ([0, 1, True], "label of text 2 is True, not a class id"),
        (["0", 1, 1], "label of text 0 is '0'"),
        ([0, None, 1], "label of text 1 is None"),
        ([[0], 1, 1], r"label of text 0 is \[0\]"),
    ],
)
def test_labels_that_are_none(labels: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassificationData(["a", "b", "c"], None, labels, ["x", "y"])


def test_labels_of_several_classes() -> None:
    data = ClassificationData(["a", "b"], None, [numpy.array([1, 0]), ()], ["x", "y"], multi_label=True)
    assert data.label_ids == [[0, 1], []]
    for labels, message in (([[2], []], "is 2, but"), ([0, 1], "has a list"), ([[1, 1], []], "names a class twice")):
        with pytest.raises(ValueError, match=message):
            ClassificationData(["a", "b"], None, labels, ["x", "y"], multi_label=True)


def test_names_and_texts_in_memory() -> None:
    with pytest.raises(ValueError, match="has a name twice"):
        ClassificationData(["a"], None, [0], ["x", "x"])
    with pytest.raises(ValueError, match="must be text"):
        ClassificationData(["a"], None, [0], [0, 1])
    with pytest.raises(TypeError, match="texts has nan at 1"):
        TextData(["a", float("nan")], None)
    with pytest.raises(TypeError, match="single string"):
        TextData("a text", None)


@every_format
def test_whole_numbers_with_a_fraction_are_the_same_label(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "a", "label": "1.0"}, {"text": "b", "label": "1"}, {"text": "c", "label": "0.0"}]
    data = read_classification_file(write_rows(tmp_path, suffix, rows))
    assert (data.label_names, data.label_ids) == (["0", "1"], [1, 1, 0])
    assert read_classification_file(tmp_path / f"d{suffix}", ["1", "0"]).label_ids == [0, 0, 1]
    versions = [{"text": "a", "label": "1.0"}, {"text": "b", "label": "1.5"}]
    assert read_classification_file(write_rows(tmp_path, suffix, versions)).label_names == ["1.0", "1.5"]


@every_format
def test_booleans_are_labels(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    data = read_classification_file(write_rows(tmp_path, suffix, rows))
    assert (data.label_names, data.label_ids) == (["False", "True"], [1, 0])


@pytest.mark.parametrize("names", [["a|b", "c"], ["\\\\", "|"], ["a\\\\", "b"], ["x"], ["a\\n", "|\\|"]])
def test_names_with_separators_survive_tables(tmp_path: Path, names: list[str]) -> None:
    assert split_labels(join_labels(names)) == names
    path = write(tmp_path, "d.tsv", f"labels\ttext\n{join_labels(names)}\tone\nz\ttwo\n")
    data = read_classification_file(path, multi_label=True)
    assert [data.label_names[label] for label in data.label_ids[0]] == sorted(names)

"""The table of what was read: counts of many classes, lengths of whole texts, and labels that are refused."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fastbert_cli.data_table import DataTable
from fastbert_cli.errors import CommandError
from fastbert_hf.data import ClassificationData, TextData
from helpers.training import make_tokenizer


def shown(train, dev=None, stride=None, width=80, **more):
    console = Console(file=io.StringIO(), width=width)
    DataTable.of(train, dev, **more).show(console, make_tokenizer(), 16, stride)
    return [line.split() for line in console.file.getvalue().splitlines()]


def of_classes(number, texts_of_each):
    labels = [label for label in range(number) for _ in range(texts_of_each)]
    texts = [f"good {'very ' * (place % 7)}" for place in range(len(labels))]
    return ClassificationData(texts, None, labels, [f"class {label}" for label in range(number)])


@pytest.mark.parametrize("number", [21, 77, 100])
def test_the_counts_of_many_classes_stand_several_in_a_row(number):
    unlabelled = TextData(["film"], None)
    lines = shown(of_classes(number, 3), of_classes(number, 2), unlabelled=unlabelled)
    begin = lines.index(["texts", "by", "class,", "train", "and", "dev:"])
    cells = [word for line in lines[begin + 1 :] for word in line]
    assert len(lines) - begin - 1 <= -(-number // 4)
    found = [cells[place : place + 4] for place in range(0, len(cells), 4)]
    assert sorted(found) == sorted(["class", str(label), "3", "2"] for label in range(number))


def test_few_classes_have_a_row_each_and_very_many_are_summed_up():
    few = shown(of_classes(20, 3))
    assert ["class", "class", "19", "3"] in few and not any("by" in line for line in few)
    many = shown(of_classes(101, 3))
    assert ["texts", "of", "the", "smallest", "3"] in many and not any("by" in line for line in many)


@pytest.mark.parametrize(
    ("stride", "row"), [(None, ["cut", "off", "at", "16", "1"]), (4, ["passages", "of", "16", "92"])]
)
def test_lengths_are_those_of_whole_texts(stride, row):
    texts = ["very " * 900, "good", "bad"]
    lines = shown(ClassificationData(texts, None, [0, 1, 0], ["a", "b"]), stride=stride)
    assert ["tokens,", "median", "3"] in lines and ["tokens,", "longest", "902"] in lines
    assert row in lines


def test_a_text_that_goes_on_and_on():
    lines = shown(ClassificationData(["good " * 20_000, "bad"], None, [0, 1], ["a", "b"]))
    assert ["tokens,", "longest", "3,202", "or", "more"] in lines


def test_more_tags_than_texts_are_no_mistake():
    tags = [[number % 45, (number + 7) % 45, (number + 20) % 45] for number in range(40)]
    data = ClassificationData([f"text {n}" for n in range(40)], None, tags, [f"t{n}" for n in range(45)], True)
    DataTable.of(data, None).check()
    numbers = ClassificationData(
        [f"text {n}" for n in range(70)], None, [*range(35)] * 2, [f"{n}.5" for n in range(35)]
    )
    with pytest.raises(CommandError, match="70 texts have 35 different labels, most of them numbers with a fraction"):
        DataTable.of(numbers, None).check()

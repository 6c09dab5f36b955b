"""Counts of what was read, and mistakes that no reader sees."""

from __future__ import annotations

import pytest

from fastbert_hf.data import ClassificationData, TextData
from fastbert_hf.data.summary import DataSummary, refusal_of, summarise, suspicions


def test_counts_of_texts_classes_and_duplicates():
    data = ClassificationData(["a b", "A  B", "a b", "c"], None, [0, 0, 1, 0], ["x", "y", "z"])
    assert summarise(data) == DataSummary(4, 2, 1, {"x": 3, "y": 1, "z": 0})
    assert summarise(TextData(["a", "a"], None)) == DataSummary(2, 1, 0, {})
    several = ClassificationData(["a", "a", "b"], None, [[0, 1], [0, 1], []], ["x", "y"], multi_label=True)
    assert summarise(several) == DataSummary(3, 1, 0, {"x": 2, "y": 2})


def summary(classes, contradictions=0):
    return DataSummary(sum(classes.values()), contradictions, contradictions, classes)


@pytest.mark.parametrize(
    ("train", "dev", "told"),
    [
        ({"a": 30, "b": 30}, {"a": 10, "b": 12}, []),
        ({"a b": 30, "A  B": 2}, None, ["the classes 'a b' (30 texts) and 'A  B' (2 texts) differ in case or blanks"]),
        ({"a": 30, "b": 1, "c": 0}, None, ["no text to train on has the class c", "one text only has the class b"]),
        ({"a": 30, "b": 30}, {"a": 22, "b": 0}, ["the texts to score on have one class only, 'a'"]),
        ({"a": 9, "b": 9, "c": 9}, {"a": 2, "b": 2, "c": 0}, ["no text to score on has the class c"]),
        ({"a": 30, "b": 30}, {"a": 96, "b": 4}, ["who always answers 'a' is right on 96% of the texts to score on"]),
    ],
)
def test_what_looks_like_a_mistake_is_said(train, dev, told):
    found = list(suspicions(summary(train), None if dev is None else summary(dev), multi_label=False))
    assert len(found) == len(told) and all(map(str.startswith, found, told)), found


def test_contradictions_are_said():
    (found,) = suspicions(summary({"a": 5, "b": 5}, 3), None, multi_label=False)
    assert found.startswith("3 texts to train on occur before with another label")


def refusal(classes, texts=None, multi_label=False):
    counts = summary(classes) if texts is None else DataSummary(texts, 0, 0, classes)
    return refusal_of(counts, multi_label=multi_label)


def test_a_label_for_every_text_is_no_class():
    assert "a regression is not what FastBERT does" in refusal({f"{n / 8}": 1 for n in range(30)})
    assert "--label-column" in refusal({f"name {n}": 1 for n in range(30)})
    assert refusal({f"name {n}": 1 for n in range(5)}) is None
    assert refusal({f"{n}": 2 for n in range(30)}) is None


def test_more_labels_than_texts_are_fine_where_a_text_has_several():
    tags = {f"tag {n}": 2 + n % 5 for n in range(45)}
    assert refusal(tags, 40, multi_label=True) is None
    assert refusal({f"1.{n}": 3 for n in range(45)}, 40, multi_label=True) is None
    once = refusal(dict.fromkeys(tags, 1), 40, multi_label=True)
    assert once.startswith("40 texts have 45 different labels, so no class has two texts; ")


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (
            {f"{n / 7:.3f}": 1 + (n % 2) for n in range(700)},
            "1,050 texts have 700 different labels, most of them numbers",
        ),
        ({f"{n / 7:.3f}": 1 for n in range(40)} | {"nan": 30}, "70 texts have 41 different labels"),
        ({f"{n / 2}": 6 for n in range(1, 11)}, None),  # stars, on few texts
        ({f"{n / 2}": 2 for n in range(21)}, None),  # marks from 0 to 10
        ({f"{n / 10}": 40 for n in range(101)}, None),  # many values, but texts of each
        ({f"{n / 7:.3f}": 1 for n in range(40)} | {f"name {n}": 2 for n in range(50)}, None),
        ({f"{n}": 2 for n in range(200)}, None),  # numbers of classes
    ],
)
def test_numbers_of_a_regression_are_no_classes(classes, told):
    found = refusal(classes)
    assert found is None if told is None else found.startswith(told) and "a regression is not what" in found


def test_whole_numbers_that_may_be_a_regression_are_told():
    (found,) = suspicions(summary({f"{n}": 2 for n in range(30)}), None, multi_label=False)
    assert found.startswith("the 30 classes are numbers, and most have fewer than 10 texts; where they measure")
    assert not list(suspicions(summary({f"{n}": 2 for n in range(30)}), None, multi_label=True))
    assert not list(suspicions(summary({f"{n}": 2 for n in range(21)}), None, multi_label=False))
    assert not list(suspicions(summary({f"{n}": 10 for n in range(30)}), None, multi_label=False))

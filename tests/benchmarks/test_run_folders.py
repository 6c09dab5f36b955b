"""Folders of trainings: names, and settings that have to be the same when a run goes on."""

from __future__ import annotations

import pytest

from fastbert_hf.data import ClassificationData, TextData
from run_folders import SMALL, RunName, digest_of, open_run


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (RunName("sst2", SMALL, "joint", 1), "sst2-joint-1"),
        (RunName("ag_news", "e5-small", "distilled", 0), "ag_news-e5-small-distilled-0"),
        (RunName("ag_news", "mpnet-base", "teacher", 10), "ag_news-mpnet-base-teacher-10"),
    ],
)
def test_names_are_those_of_the_folders(name, text):
    assert str(name) == text


def test_a_run_goes_on_with_the_same_settings_alone(tmp_path):
    folder = tmp_path / "new" / "run"
    description = {"epochs": 3, "layers": (1, 2), "distil": {"rate": 0.5, "targets": "soft"}}
    for _ in range(2):
        open_run(folder, description)
    other = {"layers": (1, 2), "distil": {"rate": 0.25, "targets": "soft"}, "rows": 5}
    with pytest.raises(SystemExit) as stopped:
        open_run(folder, other)
    message = str(stopped.value)
    assert "epochs: 3 there, None now" in message and "distil rate: 0.5 there, 0.25 now" in message
    assert "rows: None there, 5 now" in message and "choose another folder with --run" in message
    assert "targets" not in message and "layers" not in message
    open_run(folder, description)  # nothing was written over


def test_digests_differ_for_other_texts_labels_and_orders():
    data = [
        ClassificationData(["a", "b"], None, [0, 1], ["no", "yes"]),
        ClassificationData(["b", "a"], None, [0, 1], ["no", "yes"]),
        ClassificationData(["a", "b"], None, [1, 1], ["no", "yes"]),
        ClassificationData(["a", "b"], None, [0, 1], ["yes", "no"]),
        ClassificationData(["a", "b"], ["", ""], [0, 1], ["no", "yes"]),
        TextData(["a", "b"], None),
    ]
    digests = [digest_of(one) for one in data]
    assert len(set(digests)) == len(data)
    assert digest_of(ClassificationData(["a", "b"], None, [0, 1], ["no", "yes"])) == digests[0]


@pytest.mark.parametrize("backbone", [SMALL, "e5-small", "e5-small-enpt", "mpnet-base"])
@pytest.mark.parametrize("variant", ["distilled", "hard", "joint", "teacher"])
@pytest.mark.parametrize("seed", [0, 12, None])
def test_names_are_read_as_they_were_written(backbone, variant, seed):
    name = RunName("ag_news", backbone, variant, seed)
    assert RunName.parse(str(name)) == name


@pytest.mark.parametrize("text", ["", "sst2", "sst2-0", "sst2-soft-0", "sst2-joint-x", "joint-0", "sst2-joint-0-1"])
def test_other_names_are_refused(text):
    with pytest.raises(ValueError, match="is not the name of a trained model"):
        RunName.parse(text)

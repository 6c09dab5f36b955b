"""The benchmark of the bag of words, on a data set of a few texts."""

from __future__ import annotations

import json

import pytest

import bag_of_words

pytest.importorskip("sklearn", reason="needs scikit-learn")


def test_a_row_for_each_data_set(tmp_path, capsys) -> None:
    for task, words in {"sst2": ("bad", "good"), "book_review": ("不好", "很好")}.items():
        (tmp_path / task).mkdir()
        for part, size in (("train", 20), ("test", 9)):
            rows = [f"{number % 2}\t{words[number % 2]}" for number in range(size)]
            (tmp_path / task / f"{part}.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    bag_of_words.main(["--data", str(tmp_path), "--tasks", "sst2", "book_review", "--out", str(tmp_path)])
    english, chinese = json.loads((tmp_path / "bag_of_words_cpu.json").read_text())["tasks"]
    assert (english["task"], english["unit"], english["train"], english["test"]) == ("sst2", "words", 20, 9)
    assert chinese["unit"] == "characters" and english["accuracy"] == chinese["accuracy"] == 1
    assert english["accuracy_interval"][1] == 1 and len(english["ms_per_text"]) == 3
    assert "| book_review | characters | 20 | 100.0% |" in capsys.readouterr().out

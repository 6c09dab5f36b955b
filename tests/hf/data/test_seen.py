"""Texts that a model has seen: found again whatever their case, blanks and labels, and not to be read."""

from __future__ import annotations

import numpy as np
import pytest

from fastbert_hf.data import ClassificationData, TextData, select_texts
from fastbert_hf.data.seen import SEEN_FILE, SeenTexts, text_keys


def test_what_was_trained_on_and_what_chose_is_found_again(tmp_path):
    train = ClassificationData(["A good  film", "bad", "fine"], None, [0, 1, 0], ["x", "y"])
    seen = SeenTexts().with_run(train, TextData(["bad", "a book"], None)).with_run(TextData(["later"], None), None)
    seen.save(tmp_path)
    content = (tmp_path / SEEN_FILE).read_bytes()
    assert not any(word in content.lower() for word in (b"good", b"film", b"book"))
    found = SeenTexts.load(tmp_path / SEEN_FILE).among(
        TextData(["a GOOD film", "bad", "a book", "new", "later ", "a good filmed"], None)
    )
    assert found.trained_on.tolist() == [True, True, False, False, True, False]
    assert found.chose.tolist() == [False, False, True, False, False, False]
    assert found.in_words() == "4 of 6 texts were seen in training (3 trained on, 1 chose the epochs)"


def test_a_pair_is_neither_of_its_texts_nor_both_in_another_order():
    keys = [text_keys(data)[0] for data in (TextData(["a"], ["b"]), TextData(["b"], ["a"]), TextData(["a b"], None))]
    assert len(set(keys)) == 3


def test_nothing_is_written_for_a_model_that_saw_nothing_and_broken_files_are_refused(tmp_path):
    SeenTexts().save(tmp_path)
    assert not list(tmp_path.iterdir())
    for name, content in (("a", b"no zip"), ("b", None)):
        if content is None:
            np.savez(tmp_path / "b.npz", trained_on=np.ones(2), chose=np.ones(2))
        else:
            (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read \(.*; fetch the model again, or delete the file"):
            SeenTexts.load(tmp_path / f"{name}.npz")


def test_selected_texts_keep_their_labels_and_pairs():
    data = ClassificationData(["a", "b", "c"], ["d", "e", "f"], [[0], [], [0, 1]], ["x", "y"], multi_label=True)
    part = select_texts(data, [2, 0])
    assert (part.texts, part.pairs, part.label_ids, part.multi_label) == (["c", "a"], ["f", "d"], [[0, 1], [0]], True)


def test_texts_that_fitted_temperatures_are_told_apart_and_stay(tmp_path):
    seen = SeenTexts().with_temperatures(TextData(["bad", "a book", "A film"], None))
    seen = seen.with_run(TextData(["bad"], None), TextData(["a book"], None))
    seen.save(tmp_path)
    found = SeenTexts.load(tmp_path / SEEN_FILE).among(TextData(["bad", "a book", "a  film", "new"], None))
    assert [which.tolist() for which in found] == [
        [True, False, False, False],
        [False, True, False, False],
        [False, False, True, False],
    ]
    assert found.in_words() == (
        "3 of 4 texts were seen in training (1 trained on, 1 chose the epochs, 1 fitted the temperatures)"
    )


def test_files_of_models_from_before_temperatures_were_recorded(tmp_path):
    keys = text_keys(TextData(["bad"], None))
    np.savez(tmp_path / SEEN_FILE, trained_on=keys, chose=keys[:0])
    found = SeenTexts.load(tmp_path / SEEN_FILE).among(TextData(["bad", "new"], None))
    assert found.trained_on.tolist() == [True, False] and not found.fitted_temperatures.any()
    np.savez(tmp_path / SEEN_FILE, trained_on=keys)
    with pytest.raises(ValueError, match="cannot be read"):
        SeenTexts.load(tmp_path / SEEN_FILE)

"""The baseline without a network, and what it takes for words."""

from __future__ import annotations

import numpy as np
import pytest

from fastbert_hf.analysis.bag_of_words import train_bag_of_words, unit_of
from fastbert_hf.data import ClassificationData, TextData

pytest.importorskip("sklearn", reason="needs scikit-learn")


def make_data(words: tuple[str, str], size: int = 40) -> ClassificationData:
    """Texts of noise, and of one word that tells the class."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, size).tolist()
    texts = [" ".join([*draw.choice(["the", "of", "a"], 4), words[label]]) for label in labels]
    return ClassificationData(texts, None, labels, ["no", "yes"])


def test_it_learns_what_a_word_says() -> None:
    bag = train_bag_of_words(make_data(("bad", "good")))
    assert bag.unit == "words" and bag.trained_on == 40
    found = bag.answers(TextData(["a good the", "bad of a", "the the good"], None))
    assert found.predictions.tolist() == [1, 0, 1] and found.predictions.dtype == np.int64
    assert (found.unit, found.trained_on) == ("words", 40)


def test_it_learns_from_characters_where_no_spaces_are() -> None:
    data = ClassificationData(
        ["这本书很好看", "这本书不好看", "书很好", "书不好"] * 5, None, [1, 0, 1, 0] * 5, ["0", "1"]
    )
    bag = train_bag_of_words(data)
    assert bag.unit == "characters"
    assert bag.predict(TextData(["很好", "不好"], None)).tolist() == [1, 0]


def test_it_reads_both_texts_of_a_pair() -> None:
    plain = make_data(("bad", "good"))
    pairs = ClassificationData(["the"] * len(plain), plain.texts, plain.label_ids, plain.label_names)
    assert train_bag_of_words(pairs).predict(TextData(["the", "the"], ["bad", "good"])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (["A film, of 2 hours."], "words"),
        (["这本书很好看 OK"], "characters"),
        (["映画はとても良い"], "characters"),
        (["영화 가 좋다"], "words"),
        (["หนังดีมาก"], "characters"),
        (["12 34 !!"], "words"),
        (["a long text of English words with 书 in it"], "words"),
    ],
)
def test_units_by_script(texts: list[str], unit: str) -> None:
    assert unit_of(texts) == unit


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="class"):
        train_bag_of_words(ClassificationData(["a b", "c d"], None, [1, 1], ["no", "yes"]))

"""The models that commands take: those with classes, where the answers are classes."""

from __future__ import annotations

import pytest
from transformers import BertTokenizerFast

from helpers.cli import WORDS, assert_complaint, invoke
from helpers.models import spread_model

SCORES = {"problem_type": "regression", "labels": 1}


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "reranker"
    spread_model(**SCORES).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "MODEL", "--data", "LABELLED"),
        ("compare", "MODEL", "MODEL", "--data", "LABELLED"),
        ("analyze", "MODEL", "--data", "LABELLED"),
    ],
    ids=lambda words: words[0],
)
def test_a_model_of_scores_is_refused(reranker, tmp_path, words):
    """Its one logit would have the probability 1 for every text."""
    texts, labelled = tmp_path / "texts.txt", tmp_path / "labelled.tsv"
    texts.write_text("".join(f"a good film {number}\n" for number in range(100)))
    labelled.write_text("label\ttext\nLABEL_0\ta good film\nLABEL_0\ta bad film\n")
    named = {"MODEL": reranker, "TEXTS": texts, "LABELLED": labelled}
    result = invoke(*(named.get(word, word) for word in words))
    assert_complaint(result, words[0], "one output, a score")

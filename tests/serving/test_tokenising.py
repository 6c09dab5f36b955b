"""Texts and pairs of one request: every row of their window is what the text has alone."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from fastbert_hf.text_windows import WindowTokeniser

TEXTS = ["bad", ("a good film", "is not bad"), "a very fine book", "a", ("the film", "bad"), ("bad", "bad"), "is fine"]


@pytest.fixture(params=["of BERT", "of no model"])
def new(request, tokenizer):
    """Return what makes tokenisers; those `of no model` give segment ids to pairs alone."""
    if request.param == "of no model":
        names = {"model_input_names": ["input_ids", "attention_mask"], "pad_token": "[PAD]"}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **names)
    return lambda: WindowTokeniser(tokenizer, 7, 100)


def rows_of(window):
    """Ids, segment ids and the flag of being cut off, by the position of the text."""
    lengths = window.lengths.tolist()
    segments = torch.zeros_like(window.input_ids) if window.token_type_ids is None else window.token_type_ids
    ids, kinds = (values.split(lengths) for values in (window.input_ids, segments))
    return {
        position: (ids[row].tolist(), kinds[row].tolist(), bool(window.truncated[row]))
        for row, position in enumerate(window.order.tolist())
    }


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[::-1], TEXTS[:1], TEXTS[1:2], TEXTS[:2]], ids=len)
def test_rows_of_texts_and_pairs(new, texts):
    from fastbert_serving.tokenising import tokenised

    window = tokenised(texts, new)
    alone = {position: rows_of(new()([text], 0))[0] for position, text in enumerate(texts)}
    assert rows_of(window) == alone
    assert (window.start, window.num_texts, len(window)) == (0, len(texts), len(texts))
    # The longest first, those of equal length in their order.
    assert window.order.tolist() == sorted(range(len(texts)), key=lambda position: -len(alone[position][0]))
    if texts == TEXTS:
        assert {cut for _, _, cut in alone.values()} == {True, False}
        assert any(any(kinds) for _, kinds, _ in alone.values())


def test_the_position_of_a_text_is_that_in_the_request(new):
    from fastbert_serving.tokenising import tokenised

    with pytest.raises(ValueError, match=r"text 3 \(counted from 0\) is empty"):
        tokenised(["bad", ("a", "film"), "fine", ("bad", " "), "bad"], new)
    with pytest.raises(TypeError, match=r"text 1 \(counted from 0\) is of type int"):
        tokenised(["bad", 7], new)

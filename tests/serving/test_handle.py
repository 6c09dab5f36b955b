"""What callers in Python are answered, as by a handle of Ray Serve, is what the endpoints answer; without Ray."""

from __future__ import annotations

import asyncio

import pytest

TEXTS = ["a good film", "bad", "the book is not very good", "film film film a the is fine"]
QUERY = "good film"


@pytest.mark.parametrize("speed", [None, 0.5])
def test_classes(server, speed):
    from fastbert_serving import handle

    got = asyncio.run(handle.predict(server.service, TEXTS, speed=speed))
    assert got == server.predict([[text] for text in TEXTS], speed=speed, details=True)
    pairs = [(QUERY, text) for text in TEXTS]
    got = asyncio.run(handle.predict(server.service, pairs, speed=speed))
    assert got == server.predict([*map(list, pairs)], speed=speed, details=True)


@pytest.mark.parametrize("speed", [None, 3.0])
def test_scores(reranker, speed):
    """Which have no uncertainty."""
    from fastbert_serving import handle

    asked = {"query": QUERY, "texts": TEXTS, "speed": speed, "details": True}
    got = asyncio.run(handle.rerank(reranker.service, QUERY, TEXTS, speed=speed))
    assert got == reranker.request("POST", "/rerank", asked)[2]
    assert got[0].keys() == {"index", "score", "exit_layer", "truncated", "setting"}


def test_long_texts_are_cut_off_where_that_is_asked_for(server, reranker):
    from fastbert_serving import handle
    from fastbert_serving.errors import Refusal

    long = ["bad", "film " * 60]
    for ask in (
        lambda **fields: handle.predict(server.service, long, **fields),
        lambda **fields: handle.rerank(reranker.service, QUERY, long, **fields),
    ):
        with pytest.raises(Refusal, match=r"text 1 \(counted from 0\) has more than 40 tokens"):
            asyncio.run(ask())
        assert sorted(each["truncated"] for each in asyncio.run(ask(truncate=True))) == [False, True]


def test_who_gets_no_answer_is_told_as_over_http(server, reranker):
    from fastbert_serving import handle
    from fastbert_serving.errors import Refusal

    predict, rerank = handle.predict, handle.rerank
    for answer, status, message in (
        (predict(reranker.service, TEXTS), 404, "send a query and texts to /rerank"),
        (rerank(server.service, QUERY, TEXTS), 404, "send texts to /predict"),
        (predict(server.service, []), 422, "send at least one"),
        (rerank(reranker.service, QUERY, []), 422, "send at least one"),
        (predict(server.service, "a good film"), 422, "send a list of texts"),
        (rerank(reranker.service, QUERY, "a good film"), 422, "send a list of texts"),
        (predict(server.service, TEXTS, speed=7.0), 422, "speed must lie in"),
        (rerank(reranker.service, QUERY, TEXTS, speedup=2.0), 422, "speedup needs a calibrated model"),
    ):
        with pytest.raises(Refusal, match=message) as refused:
            asyncio.run(answer)
        assert refused.value.status == status

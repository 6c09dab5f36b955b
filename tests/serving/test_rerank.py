"""/rerank over loopback: scores and order are those of `fastbert_hf.rank`, and other models refuse it."""

from __future__ import annotations

import json

import pytest
import torch

from fastbert_hf import predict
from fastbert_hf.ranking import rank

QUERY, TEXTS = "good film", ["a good film", "bad", "the book is not very good", "is", "a good film", "very " * 20]


def ask(server, **fields):
    status, _, answer = server.request("POST", "/rerank", {"query": QUERY, "texts": TEXTS, **fields})
    assert status == 200, answer
    return answer


def test_order_and_scores_of_rank(reranker, tokenizer):
    want = rank(reranker.model, tokenizer, QUERY, TEXTS, max_length=40)
    got = ask(reranker, raw_scores=True)
    assert [each["index"] for each in got] == want.documents
    assert [each["score"] for each in got] == want.scores.double().tolist()
    assert all(each.keys() == {"index", "score"} for each in got)
    assert [each["index"] for each in got if each["index"] in (0, 4)] == [0, 4]  # the same text, so the same score
    probabilities = ask(reranker, return_text=True)
    assert [each["score"] for each in probabilities] == pytest.approx(want.scores.double().sigmoid().tolist())
    assert [each["text"] for each in probabilities] == [TEXTS[index] for index in want.documents]


@pytest.mark.parametrize("speed", [0.0, 0.5, 3.0])
def test_documents_leave_early(reranker, tokenizer, speed):
    want = predict(reranker.model, tokenizer, [(QUERY, text) for text in TEXTS], speed=speed, max_length=40)
    got = {each["index"]: each for each in ask(reranker, raw_scores=True, details=True, speed=speed)}
    for index in range(len(TEXTS)):
        assert got[index]["score"] == float(want.scores[index])
        assert got[index]["exit_layer"] == int(want.exit_layer[index])
        assert (got[index]["truncated"], got[index]["setting"]) == (False, None)
    if speed == 3.0:
        assert len(want.exit_layer.unique()) > 1


def test_long_documents(reranker, tokenizer):
    texts = [TEXTS[0], "film " * 60]
    status, _, answer = reranker.request("POST", "/rerank", {"query": QUERY, "texts": texts})
    assert status == 422 and "text 1 (counted from 0) has more than 40 tokens" in answer["error"]
    fields = {"truncate": True, "truncation_direction": "Right", "details": True}
    status, _, answer = reranker.request("POST", "/rerank", {"query": QUERY, "texts": texts, **fields})
    assert status == 200 and {each["index"]: each["truncated"] for each in answer} == {0: False, 1: True}


SECRET = "confidential"
BAD = [
    ({"texts": [SECRET]}, 422, "query: Field required"),
    ({"query": SECRET}, 422, "texts: Field required"),
    ({"query": " ", "texts": [SECRET]}, 422, "query must be a string that is not empty"),
    ({"query": 7, "texts": [SECRET]}, 422, "query must be a string"),
    ({"query": SECRET, "texts": SECRET}, 422, "texts must be a list"),
    ({"query": SECRET, "texts": []}, 422, "at least one"),
    ({"query": SECRET, "texts": [SECRET, [SECRET]]}, 422, "text 1 (counted from 0) is not a string"),
    ({"query": SECRET, "texts": [SECRET, "\t"]}, 422, "text 1 (counted from 0) is empty"),
    ({"query": SECRET, "texts": [SECRET] * 9}, 413, "9 texts, more than 8"),
    ({"query": SECRET, "texts": [SECRET], "speed": -1}, 422, "speed: "),
    ({"query": SECRET, "texts": [SECRET], "speedup": 2}, 422, "speedup needs a calibrated model"),
    ({"query": SECRET, "texts": [SECRET], "truncation_direction": "left"}, 422, "cut off on the right"),
    ({"query": SECRET, "texts": [SECRET], "inputs": SECRET}, 422, "field 2 (counted from 0) is unknown; known are"),
    ({"query": SECRET, "text": [SECRET]}, 422, "texts: Field required; field 1 (counted from 0) is unknown, perhaps f"),
]


@pytest.mark.parametrize(("body", "status", "message"), BAD, ids=[message for *_, message in BAD])
def test_refusals(reranker, body, status, message):
    got, _, answer = reranker.request("POST", "/rerank", body)
    assert got == status and message in answer["error"], answer
    assert SECRET not in json.dumps(answer)


def test_each_model_has_its_endpoint(server, reranker):
    status, _, answer = reranker.request("POST", "/predict", {"inputs": "a good film"})
    assert status == 404 and "send a query and texts to /rerank" in answer["error"]
    status, _, answer = server.request("POST", "/rerank", {"query": QUERY, "texts": TEXTS})
    assert status == 404 and "send texts to /predict" in answer["error"]
    for running, own, other in ((server, "/predict", "/rerank"), (reranker, "/rerank", "/predict")):
        paths = running.request("GET", "/openapi.json")[2]["paths"]
        assert own in paths and other not in paths
    assert "reranker" in reranker.request("GET", "/info")[2]["model_type"]
    assert reranker.metric("fastbert_uncertainty_count") == 0
    assert torch.isfinite(torch.tensor(reranker.metric("fastbert_uncertainty_sum")))

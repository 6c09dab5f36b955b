"""What a handle asks of a replica, which needs no cluster for it: classes of one model, scores of another."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fastbert-kernels[ray]'")

from fastbert_ray.deployment import Options, Replica
from fastbert_serving.errors import Refusal

QUERY, TEXTS = "good film", ["a good film", "bad", "the book is not very good"]


@pytest.fixture(scope="module")
def saved_reranker(saved_model, tmp_path_factory):
    """A model with one output, and the tokenizer of the other one."""
    from transformers import AutoTokenizer

    from helpers.models import spread_model

    folder = tmp_path_factory.mktemp("reranker")
    spread_model(problem_type="regression", labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(saved_model).save_pretrained(folder)
    return folder


def test_a_replica_of_each_kind_answers_what_is_asked_of_it(saved_model, saved_reranker):
    from fastbert_hf import predict
    from fastbert_ray.model_folder import load_patched

    classifier, reranker = (Replica(Options(model=str(folder))) for folder in (saved_model, saved_reranker))
    try:
        labels = asyncio.run(classifier.predict(TEXTS, speed=0.5))
        ranks = asyncio.run(reranker.rerank(QUERY, TEXTS, speed=0.5))
        for asked in (classifier.rerank(QUERY, TEXTS), reranker.predict(TEXTS)):
            with pytest.raises(Refusal, match="this model has"):
                asyncio.run(asked)
    finally:
        for replica in (classifier, reranker):
            replica._service.close()
    want = predict(*load_patched(saved_model, "weights", 1), TEXTS, speed=0.5)
    assert [each["predictions"][0]["label"] for each in labels] == want.label_names
    assert [each["uncertainty"] for each in labels] == want.uncertainty.tolist()
    pairs = [(QUERY, text) for text in TEXTS]
    want = predict(*load_patched(saved_reranker, "weights", 1), pairs, speed=0.5)
    scores = want.scores.double().sigmoid().tolist()
    assert [each["index"] for each in ranks] == sorted(range(len(TEXTS)), key=lambda index: -scores[index])
    for each in ranks:
        assert (each["score"], each["exit_layer"]) == (scores[each["index"]], int(want.exit_layer[each["index"]]))

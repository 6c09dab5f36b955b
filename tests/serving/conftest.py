"""Two servers for the tests of this folder, of a model with classes and of one with a score, and their tokenizer."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    pytest.importorskip("fastapi", reason="the server is not installed: pip install 'fastbert-kernels[serve]'")
    from helpers.serving import tiny_tokenizer

    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def server(tokenizer):
    from helpers.serving import patched_model, running

    with running(patched_model(), tokenizer, max_texts=8, max_body=20_000, max_length=40) as server:
        yield server


@pytest.fixture(scope="session")
def reranker(tokenizer):
    from helpers.serving import patched_model, running

    with running(patched_model(problem_type="regression", labels=1), tokenizer, max_texts=8, max_length=40) as server:
        yield server

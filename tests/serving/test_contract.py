"""The OpenAPI document says what the server does: requests made from it, right ones and wrong ones, by schemathesis."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

pytest.importorskip("schemathesis", reason="not installed: pip install schemathesis")
pytest.importorskip("fastapi", reason="the server is not installed: pip install 'fastbert-kernels[serve]'")

KEY = "sesame"
# 504 is the right answer to a deadline that has passed. Texts that are too many or too long, and options that exclude
# each other, are in no schema.
CHECKS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]
[checks.positive_data_acceptance]
enabled = false
"""
OPTIONS = ["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "1", "--no-shrink"]


@pytest.mark.proof
@pytest.mark.parametrize("model", [{}, {"problem_type": "regression", "labels": 1}], ids=["classifier", "reranker"])
def test_the_server_keeps_its_contract(tokenizer, model, tmp_path, monkeypatch):
    from schemathesis.cli import schemathesis

    from helpers.serving import patched_model, running

    (tmp_path / "schemathesis.toml").write_text(CHECKS)
    monkeypatch.chdir(tmp_path)
    with running(patched_model(**model), tokenizer, api_key=KEY, max_texts=8, max_length=40) as server:
        host, port = server.address
        address, header = f"http://{host}:{port}/openapi.json", f"Authorization: Bearer {KEY}"
        result = CliRunner().invoke(schemathesis, ["run", address, "-H", header, *OPTIONS])
    assert result.exit_code == 0, result.output[-6000:]
    assert "Operations:       4 selected" in result.output

"""A teacher that the tests of step 2 share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.training import fine_tune
from helpers.training import QUICK, make_data, make_model, make_tokenizer


@pytest.fixture(scope="module")
def fine_tuned() -> FastBertForSequenceClassification:
    """A model after step 1, with fresh students; a test that changes it takes a copy."""
    model = make_model()
    fine_tune(model, make_tokenizer(), make_data(), replace(QUICK, epochs=8))
    return model

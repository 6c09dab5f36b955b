from __future__ import annotations

import pytest

from fastbert_hf import FastBertForSequenceClassification
from helpers.small_bert import make_model


@pytest.fixture
def model() -> FastBertForSequenceClassification:
    return make_model()

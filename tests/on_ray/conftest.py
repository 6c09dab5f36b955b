"""A saved model for the tests of this folder.

The folder is not called `ray`: `tests` is on the path, and Python would take it for the package.
"""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'fastbert-kernels[ray]'")
    from helpers.models import spread_model
    from helpers.serving import tiny_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    model = spread_model()
    model.config.id2label = {0: "no", 1: "yes", 2: "perhaps"}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""A checkpoint of the package fastbert, for all tests of a file."""

from __future__ import annotations

import pytest

from helpers.uer_checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def fastbert(tmp_path_factory):
    return make_checkpoint("fastbert", tmp_path_factory.mktemp("fastbert"))

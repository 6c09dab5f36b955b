"""A tiny backbone, files, and a model trained from them, made once for all tests of the command line."""

from __future__ import annotations

import pytest

from helpers.cli import QUICK, QUICK_DISTIL, save_tiny_backbone, succeed, write_data


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def trained(tiny_backbone, data, tmp_path_factory):
    """Folder of a finished run of `fastbert train`; not to be changed."""
    out = tmp_path_factory.mktemp("trained") / "run"
    succeed(
        *("train", "--train", data / "train.tsv", "--dev", data / "dev.tsv", "--unlabelled", data / "texts.txt"),
        *("--backbone", tiny_backbone, "--out", out, *QUICK, *QUICK_DISTIL),
    )
    return out

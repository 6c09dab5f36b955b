"""Names that can only be on the hub, where it cannot be reached: told at once, and what was fetched is used."""

from __future__ import annotations

import os
import socket

import pytest

from fastbert_cli.errors import CommandError
from fastbert_cli.hub import look_at_hub
from helpers.cli import assert_complaint, invoke


@pytest.fixture
def nobody_answers(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    yield tmp_path
    os.environ.pop("HF_HUB_OFFLINE", None)


def test_commands_say_so(nobody_answers, tiny_backbone, data, tmp_path):
    told = "nothing here has that name, and 127.0.0.1, which might, cannot be reached"
    train = ("train", "--train", data / "train.tsv", "--out", tmp_path / "out", "--backbone")
    assert_complaint(invoke(*train, "someone/bert"), "train", f"someone/bert: {told}")
    assert_complaint(invoke(*train, tiny_backbone, "--dev", "glue"), "train", f"glue: {told}")
    adopt = ("adopt", "someone/bert", "--texts", data / "texts.txt", "--out", tmp_path / "out")
    assert_complaint(invoke(*adopt), "adopt", f"someone/bert: {told}")
    demo = ("demo", "--backbone", "someone/bert", "--out", tmp_path / "demo")
    assert_complaint(invoke(*demo), "demo", f"someone/bert: {told}")
    assert not (tmp_path / "demo").exists()


def test_a_name_that_does_not_resolve_takes_no_longer(nobody_answers, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    with pytest.raises(CommandError, match="hub.invalid, which might, cannot be reached"):
        look_at_hub("someone/bert", "models")


@pytest.mark.parametrize(
    ("kind", "folder"), [("models", "hub/models--someone--bert"), ("datasets", "datasets/someone___bert")]
)
def test_what_was_fetched_is_used_without_asking(nobody_answers, kind, folder):
    (nobody_answers / folder).mkdir(parents=True)
    look_at_hub("someone/bert", kind)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("name", ["/no/such/folder", "a/b/c", "./bert"])
def test_paths_are_not_looked_for(nobody_answers, name):
    look_at_hub(name, "models")


def test_a_proxy_or_offline_mode_decides(nobody_answers, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    look_at_hub("someone/bert", "models")

"""`fastbert serve`: at a Unix socket until SIGTERM, and what is told before anything is loaded."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time

import pytest

from helpers.cli import assert_complaint, invoke
from helpers.models import spread_model

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'fastbert-kernels[serve]'")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    from helpers.serving import tiny_tokenizer

    folder = tmp_path_factory.mktemp("saved") / "tiny"
    spread_model().save_pretrained(folder)
    tiny_tokenizer(folder).save_pretrained(folder)
    return folder


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def ask(path, method, where, body=None):
    connection = UnixConnection(path)
    headers = {"Authorization": "Bearer sesame", "Content-Type": "application/json"}
    connection.request(method, where, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def test_it_serves_until_it_is_told_to_end(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTBERT_API_KEY", "sesame")
    path, answers = tmp_path / "socket", []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(path))  # what a server that was killed leaves behind

    def client():
        try:
            end = time.monotonic() + 60
            while not answers and time.monotonic() < end:
                try:
                    answers.append(ask(path, "GET", "/info"))
                except OSError:
                    time.sleep(0.01)
            answers.append(ask(path, "POST", "/predict", {"inputs": "a good film", "speed": 0.5}))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    result = invoke("serve", saved, "--socket", path, "--dtype", "bf16", "--max-length", 30)
    thread.join()
    assert result.exit_code == 0, result.output
    assert f"fastbert serve: unix:{path}" in result.stderr
    (status, info), (predicted, scores) = answers
    info = json.loads(info)
    assert (status, info["model_id"], info["model_dtype"], info["max_input_length"]) == (200, "tiny", "bfloat16", 30)
    assert predicted == 200 and len(json.loads(scores)) == 3
    assert not path.exists() and signal.getsignal(signal.SIGTERM) == before


def test_what_is_refused(saved, tmp_path):
    assert_complaint(invoke("serve", tmp_path / "none"), "serve", "no such folder")
    assert_complaint(invoke("serve", saved, "--backend", "none"), "serve", "only a patched model is served")
    assert_complaint(invoke("serve", saved, "--max-length", 2, "--port", 0), "serve", "max_length must be above 2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_complaint(invoke("serve", saved, "--port", port), "serve", f"cannot listen at 127.0.0.1:{port}")
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taken:
        taken.bind(str(path))
        taken.listen()
        assert_complaint(invoke("serve", saved, "--socket", path), "serve", f"cannot listen at {path}")
        assert path.exists()

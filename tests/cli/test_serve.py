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


def test_a_plain_classifier_is_served_at_full_depth(tmp_path):
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    import fastbert_kernels
    from fastbert_cli.models import load_servable
    from helpers.serving import running, tiny_tokenizer

    torch.manual_seed(0)
    size = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
    plain = BertForSequenceClassification(BertConfig(vocab_size=30, num_labels=3, **size)).eval()
    plain.save_pretrained(tmp_path)
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path)
    model, tokenizer = load_servable(tmp_path)
    assert model.config.exit_layers == [3]
    with running(fastbert_kernels.patch(model), tokenizer) as server:
        (answer,) = server.predict([["a good film"]], details=True, speed=0.9)
    with torch.no_grad():
        want = plain(**tokenizer("a good film", return_tensors="pt")).logits[0].double().softmax(dim=-1)
    got = {each["label"]: each["score"] for each in answer["predictions"]}
    assert [got[f"LABEL_{index}"] for index in range(3)] == pytest.approx(want.tolist(), abs=1e-6)
    assert answer["exit_layer"] == 3


def test_options_of_a_second_setting_and_an_audit(saved, tmp_path):
    missing = tmp_path / "none.json"
    both = "--target-p99-ms", 50
    assert_complaint(
        invoke("serve", saved, "--fast-setting", missing), "serve", "--fast-setting is for --target-p99-ms"
    )
    assert_complaint(invoke("serve", saved, *both), "serve", "--target-p99-ms is for --fast-setting")
    assert_complaint(invoke("serve", saved, "--fast-setting", missing, *both), "serve", "no such file")
    missing.write_text("{}")
    faulty = invoke("serve", saved, "--port", 0, "--fast-setting", missing, *both)
    assert_complaint(faulty, "serve", "not a calibration that can be read")
    assert_complaint(invoke("serve", saved, "--audit", 0), "serve", "no text would be drawn")
    assert_complaint(invoke("serve", saved, "--port", 0, "--audit", 0.1), "serve", "this model is not calibrated")

"""`fastbert serve`: at a Unix socket until SIGTERM, and what is told before anything is loaded."""

from __future__ import annotations

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


def ask(path, method, where, body=None):
    from helpers.serving import UnixConnection

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
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(signal.SIGTERM) == before


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


def test_an_empty_key_is_no_key(saved, monkeypatch):
    """Whoever exports a secret that is not there must not serve everybody."""
    assert_complaint(invoke("serve", saved, "--api-key", ""), "serve", "--api-key is empty; give it a key, or leave")
    monkeypatch.setenv("FASTBERT_API_KEY", " ")
    told = "FASTBERT_API_KEY is empty; give it a key, or unset FASTBERT_API_KEY to serve everybody without one"
    assert_complaint(invoke("serve", saved, "--port", 0), "serve", told)


@pytest.mark.parametrize("key", ["sesame\n", " sesame", "sesame\r\n"])
def test_a_key_that_no_request_can_send(saved, monkeypatch, key):
    """Whoever mounts a secret with a line break behind it must not lock everybody out."""
    from fastbert_serving.key import key_of

    told = "begins or ends with white space, which no request can send; remove it from the key"
    with pytest.raises(ValueError, match=told):  # or the commands would serve until somebody ends them
        key_of(key)
    assert_complaint(invoke("serve", saved, "--api-key", key), "serve", f"--api-key {told}")
    monkeypatch.setenv("FASTBERT_API_KEY", key)
    assert_complaint(invoke("serve", saved, "--port", 0), "serve", f"FASTBERT_API_KEY {told}")


def test_the_key_of_the_option_goes_before_that_of_the_variable(monkeypatch):
    from fastbert_serving.key import key_of

    monkeypatch.delenv("FASTBERT_API_KEY", raising=False)
    assert key_of() is None and key_of("sesame") == "sesame"
    for variable in ("", "other"):
        monkeypatch.setenv("FASTBERT_API_KEY", variable)
        assert key_of("sesame") == "sesame"
    assert key_of() == "other"


def services():
    """Return the threads of services that are not closed."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("fastbert-")}


def test_what_is_told_when_the_model_is_loaded(saved, tmp_path, monkeypatch):
    """Somebody else listens at the port by then; a second server is told of the first that loads its model now."""
    from fastbert_cli.serve import run

    load, told, before = run.load_servable, [], services()
    path = tmp_path / "socket"
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        monkeypatch.setattr(run, "load_servable", lambda folder: other.listen() or load(folder))
        assert_complaint(invoke("serve", saved, "--port", port), "serve", f"cannot listen at 127.0.0.1:{port} (")
        assert services() == before

    def second(folder):
        monkeypatch.setattr(run, "load_servable", load)
        told.append(invoke("serve", saved, "--socket", path))
        assert path.is_socket()
        raise ValueError("enough")

    monkeypatch.setattr(run, "load_servable", second)
    assert_complaint(invoke("serve", saved, "--socket", path), "serve", "enough")
    assert_complaint(told[0], "serve", f"cannot listen at {path} (another server has it, or is starting there)")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_fails_to_answer(saved, tmp_path, monkeypatch):
    from fastbert_serving.service import Service

    async def fail(*arguments, **asked):
        raise ZeroDivisionError

    before = services()
    monkeypatch.setattr(Service, "answer", fail)
    failed = invoke("serve", saved, "--socket", tmp_path / "socket")
    assert failed.exit_code == 2 and failed.stderr.splitlines()[-1].endswith("the lines above say why")
    assert "ZeroDivisionError" in failed.stderr and services() == before


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

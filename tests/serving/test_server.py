"""The endpoints over loopback: answers are those of `predict`, and whoever gets none is told why, without its text."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
import tempfile
import threading

import pytest
import torch

from fastbert_hf import predict
from helpers.waiting import wait_until

TEXTS = ["a good film", "bad", "the book is not very good", "film film film a the is fine", "a very bad book"]


def wanted(server, tokenizer, texts, **fields):
    return predict(server.model, tokenizer, texts, max_length=40, **fields)


def of_text(answers, number, scores="probabilities"):
    """An answer with details as the server has it."""
    values = getattr(answers, scores)[number].double()
    order = values.argsort(descending=True, stable=True).tolist()
    return (
        [answers.id2label[index] for index in order],
        values[order].tolist(),
        int(answers.exit_layer[number]),
        float(answers.uncertainty[number]),
    )


def assert_answer(got, want):
    labels, values, exit_layer, uncertainty = want
    assert [each["label"] for each in got["predictions"]] == labels
    assert [each["score"] for each in got["predictions"]] == pytest.approx(values, abs=1e-6)
    assert (got["exit_layer"], got["uncertainty"]) == (exit_layer, uncertainty)


@pytest.mark.parametrize("speed", [None, 0.0, 0.3, 0.5, 1.0])
def test_answers_of_predict(server, tokenizer, speed):
    want = wanted(server, tokenizer, TEXTS, speed=speed)
    batch = server.predict([[text] for text in TEXTS], speed=speed, details=True)
    for number, text in enumerate(TEXTS):
        assert_answer(batch[number], of_text(want, number))
        assert server.predict(text, speed=speed, details=True) == batch[number]
        assert server.predict([text], speed=speed) == batch[number]["predictions"]
    assert not any(each["truncated"] for each in batch)


def test_answers_of_predict_in_int8(tokenizer):
    import fastbert_kernels
    from helpers.models import spread_model
    from helpers.serving import running

    model = fastbert_kernels.patch(spread_model(), dtype=torch.int8)
    with running(model, tokenizer, max_length=40) as server:
        want = wanted(server, tokenizer, TEXTS, speed=0.5)
        for number, got in enumerate(server.predict([[text] for text in TEXTS], speed=0.5, details=True)):
            assert_answer(got, of_text(want, number))
    assert len(want.exit_layer.unique()) > 1


def test_the_texts_leave_at_different_layers(server, tokenizer):
    assert len(wanted(server, tokenizer, TEXTS, speed=0.5).exit_layer.unique()) > 1


def test_raw_scores_and_pairs(server, tokenizer):
    want = wanted(server, tokenizer, TEXTS, speed=0.5)
    assert_answer(server.predict(TEXTS[0], raw_scores=True, details=True, speed=0.5), of_text(want, 0, "logits"))
    pairs = list(itertools.pairwise(TEXTS))
    want = wanted(server, tokenizer, pairs, speed=0.5)
    for number, got in enumerate(server.predict(pairs, details=True, speed=0.5)):
        assert_answer(got, of_text(want, number))
    assert server.predict(list(pairs[0]), speed=0.5) == server.predict([list(pairs[0])], speed=0.5)[0]


def test_long_texts(server, tokenizer):
    long = "film " * 60
    status, _, answer = server.request("POST", "/predict", {"inputs": [["bad"], [long]]})
    assert (status, answer["error_type"]) == (422, "Validation")
    assert "text 1 (counted from 0) has more than 40 tokens" in answer["error"]
    got = server.predict([["bad"], [long]], truncate=True, details=True, speed=0.3)
    assert [each["truncated"] for each in got] == [False, True]
    assert_answer(got[1], of_text(wanted(server, tokenizer, [long], speed=0.3), 0))


SECRET = "confidential"
BAD = [
    (b"{", 422, "the body is not a JSON object"),
    (b"[" * 15_000, 422, "the body cannot be read"),
    (b'{"inputs": "confidential \\ud800"}', 422, "text 0 (counted from 0)"),
    (b'{"inputs": "confidential", "speed": NaN}', 422, "speed"),
    ([SECRET], 422, "Content-Type: application/json"),
    ({}, 422, "inputs: Field required"),
    ({"inputs": []}, 422, "at least one"),
    ({"inputs": 7}, 422, "inputs must be a text"),
    ({"inputs": [SECRET, "b", "c"]}, 422, "list of 3 strings"),
    ({"inputs": [[SECRET], ["a", "b", SECRET]]}, 422, "text 1 (counted from 0)"),
    ({"inputs": [[SECRET], [7]]}, 422, "text 1 (counted from 0)"),
    ({"inputs": [[SECRET], SECRET]}, 422, "text 1 (counted from 0)"),
    ({"inputs": [[SECRET], [" "]]}, 422, "text 1 (counted from 0) is empty"),
    ({"inputs": [["a"], ["b", "c"], [SECRET], ["a", " "]]}, 422, "text 3 (counted from 0) is empty"),
    ({"inputs": [["a", "b"], [SECRET], ["c \ud800"]]}, 422, "text 2 (counted from 0) has no tokens"),
    ({"inputs": [[SECRET]] * 9}, 413, "9 texts, more than 8"),
    ({"inputs": SECRET * 3000}, 413, "more than 20000 bytes"),
    ({"inputs": SECRET, "speed": 1.5}, 422, "speed: "),
    ({"inputs": SECRET, "speed": "0.5"}, 422, "speed: "),
    ({"inputs": SECRET, "truncate": "yes"}, 422, "truncate: "),
    ({"inputs": SECRET, "speedup": 3}, 422, "speedup needs a calibrated model"),
    ({"inputs": SECRET, "speed": 0.5, "speedup": 3}, 422, "either speed or speedup"),
    ({"inputs": SECRET, "deadline_ms": 0}, 422, "deadline_ms: "),
    ({"inputs": SECRET, "truncation_direction": "Left"}, 422, "texts are cut off on the right"),
    ({"inputs": SECRET, "truncation_direction": SECRET}, 422, "truncation_direction: Input should be 'right'"),
    ({"inputs": SECRET, "sped": 0.1}, 422, "field 1 (counted from 0) is unknown, perhaps for speed; known are in"),
    ({SECRET: 1, "inputs": "a"}, 422, "field 0 (counted from 0) is unknown; known are inputs, "),
    ({"inputs": "a", f"{SECRET} \ud800": 1}, 422, "the body: Input should be a valid string"),
    ({"inputs": "a", f"{SECRET} 1": 1, SECRET: 2}, 422, "field 1 (counted from 0) is unknown, and 1 more are"),
    ({"inputs": "a"} | {f"{SECRET} {n}": n for n in range(500)}, 422, "field 1 (counted from 0) is unknown, and 499 "),
]


@pytest.mark.parametrize(("body", "status", "message"), BAD, ids=[message for *_, message in BAD])
def test_refusals_say_where_and_why_and_repeat_no_text(server, body, status, message):
    got, _, answer = server.request("POST", "/predict", body)
    assert got == status, answer
    assert answer.keys() == {"error", "error_type"} and message in answer["error"]
    assert SECRET not in json.dumps(answer) and len(answer["error"]) < 400
    assert not any(place in answer["error"] for place in (os.getcwd(), sys.prefix, tempfile.gettempdir(), ".py"))


def test_other_paths_and_methods(server):
    assert server.request("GET", "/nowhere")[0] == 404
    status, headers, _ = server.request("GET", "/predict")
    assert (status, headers["allow"]) == (405, "POST")


def test_requests_of_clients_of_text_embeddings_inference(server, tokenizer):
    """Its fields with their defaults, written out; a batch of texts and pairs, each answered as if it were alone."""
    mixed = [["a good film"], ["bad", "a good film"], ["very bad"], ["film " * 60, "bad"], ["the book"], ["film " * 60]]
    written = {"raw_scores": False, "truncate": None, "truncation_direction": "Right"}
    assert server.predict("bad", **written) == server.predict("bad")
    assert server.predict("bad", truncation_direction="right") == server.predict("bad")
    got = server.predict(mixed, truncate=True, details=True, speed=0.5)
    assert [each["truncated"] for each in got] == [False, False, False, True, False, True]
    assert len({each["exit_layer"] for each in got}) > 1
    for text, answer in zip(mixed, got, strict=True):
        assert server.predict(text, truncate=True, details=True, speed=0.5) == answer
        alone = text[0] if len(text) == 1 else tuple(text)
        assert_answer(answer, of_text(wanted(server, tokenizer, [alone], speed=0.5), 0))
    status, _, answer = server.request("POST", "/predict", {"inputs": mixed[:4], "truncate": None})
    assert status == 422 and "text 3 (counted from 0) has more than 40 tokens" in answer["error"]


def test_texts_that_are_cut_off_on_the_left(tokenizer, monkeypatch):
    from helpers.serving import patched_model, running

    monkeypatch.setattr(tokenizer, "truncation_side", "left")
    with running(patched_model(), tokenizer, max_length=6) as server:
        long = {"inputs": "bad bad bad a good film is", "truncate": True}
        got = server.request("POST", "/predict", long | {"truncation_direction": "Left"})[2]
        assert got == server.predict("a good film is")
        status, _, answer = server.request("POST", "/predict", long | {"truncation_direction": "right"})
    assert status == 422 and "cut off on the left" in answer["error"]


def test_info_and_health_and_docs(server):
    status, _, info = server.request("GET", "/info")
    assert status == 200 and info["model_id"] == "tiny"
    assert (info["num_layers"], info["max_input_length"], info["max_client_batch_size"]) == (4, 40, 8)
    assert info["model_type"]["classifier"]["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert server.request("GET", "/health")[0] == 200
    document = server.request("GET", "/openapi.json")[2]
    assert {"/predict", "/info", "/health", "/metrics"} <= document["paths"].keys()
    assert "speed" in document["components"]["schemas"]["PredictRequest"]["properties"]
    assert server.request("GET", "/docs")[0] == 200


def test_metrics_count(server):
    before = {name: server.metric(name) for name in ("fastbert_texts_total", "fastbert_exit_layer_count")}
    refused = server.metric("fastbert_failures_total", kind="Validation")
    answers = server.predict([[text] for text in TEXTS], speed=0.5, details=True)
    server.request("POST", "/predict", {"inputs": " "})
    for name, value in before.items():
        assert server.metric(name) == value + len(TEXTS)
    assert server.metric("fastbert_failures_total", kind="Validation") == refused + 1
    assert server.metric("fastbert_requests_total", endpoint="/predict", status="200") > 0
    assert server.metric("fastbert_in_flight_texts") == 0
    assert server.metric("fastbert_step_tokens_count") > 0
    assert answers


def test_every_client_has_the_answers_to_its_own_texts(server, tokenizer):
    """Six clients at once, each with a text of its own length and Speed."""
    texts = ["film " * (1 + number) for number in range(12)]
    speeds = [0.0, 0.2, 0.5, 0.8]
    want = {
        (text, speed): of_text(wanted(server, tokenizer, [text], speed=speed), 0) for text in texts for speed in speeds
    }
    faults = []

    def client(number):
        try:
            for turn in range(20):
                text, speed = texts[(number * 5 + turn) % 12], speeds[(number + turn) % 4]
                assert_answer(server.predict(text, speed=speed, details=True), want[text, speed])
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_key(tokenizer):
    from helpers.serving import patched_model, running

    with running(patched_model(), tokenizer, api_key="open sesame") as server:
        for headers in ({}, {"Authorization": "Bearer close sesame"}, {"Authorization": "open sesame"}):
            status, _, answer = server.request("POST", "/predict", {"inputs": "bad"}, headers)
            assert (status, answer["error_type"]) == (401, "Unauthorized")
            assert server.request("GET", "/metrics", headers=headers)[0] == 401
        assert server.request("GET", "/health")[0] == 200
        right = {"Authorization": "Bearer open sesame"}
        assert server.request("POST", "/predict", {"inputs": "bad"}, right)[0] == 200


def test_who_was_let_in_has_an_answer_when_the_server_ends(tokenizer, monkeypatch):
    from helpers.serving import Held, patched_model, running

    got = []
    with running(patched_model(), tokenizer) as server:
        with Held(server, monkeypatch) as held:
            client = threading.Thread(target=lambda: got.append(server.predict("a good film", speed=0.0)))
            client.start()
            assert held.reached.wait(60)
            server.server.should_exit = True
            held.free.set()
        client.join()
    assert len(got) == 1
    with pytest.raises(OSError):
        server.predict("bad")


def test_threads_hand_over_sooner_while_a_server_runs(tokenizer):
    from fastbert_serving.server import SWITCH_SECONDS
    from helpers.serving import patched_model, running

    before = sys.getswitchinterval()
    sys.setswitchinterval(3e-3)
    try:
        with running(patched_model(), tokenizer):
            assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
        assert sys.getswitchinterval() == pytest.approx(3e-3)
    finally:
        sys.setswitchinterval(before)


def test_a_fault_says_no_more_than_that_it_is_one(server, monkeypatch, caplog):
    def fail(*arguments):
        raise ZeroDivisionError(f"a good film, in {os.getcwd()}")

    counted = {
        "fastbert_requests_total": {"endpoint": "/predict", "status": "500"},
        "fastbert_failures_total": {"kind": "Internal"},
    }
    before = {name: server.metric(name, **labels) for name, labels in counted.items()}
    with caplog.at_level("INFO", logger="fastbert_serving"), monkeypatch.context() as patched:
        patched.setattr(type(server.service), "_submit", fail)
        status, _, answer = server.request("POST", "/predict", {"inputs": "a good film"})
    assert (status, answer) == (500, {"error": "the server failed; its log says how", "error_type": "Internal"})
    lines = [json.loads(record.message) for record in caplog.records if record.name == "fastbert_serving"]
    assert [line["status"] for line in lines if line["endpoint"] == "/predict"] == [500]
    for name, labels in counted.items():
        assert server.metric(name, **labels) == before[name] + 1
    assert server.predict("bad")


def test_the_log_has_a_line_for_each_request_without_its_text(server, caplog):
    with caplog.at_level("INFO", logger="fastbert_serving"):
        server.predict("confidential film", speed=0.5)
        server.request("POST", "/predict", {"inputs": "confidential", "speed": 7})
        wait_until(lambda: len(caplog.records) >= 2)
    lines = [json.loads(record.message) for record in caplog.records]
    assert [line["status"] for line in lines] == [200, 422]
    assert lines[0].keys() == {"time", "endpoint", "method", "status", "seconds", "texts", "tokens", "mean_exit_layer"}
    assert "confidential" not in caplog.text


GARBAGE = [
    b"\x00\xff" * 500 + b"\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{",
    b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n{}",
    b"POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"",
]


def test_clients_that_send_garbage_or_half_a_request_harm_nobody(server):
    """Between them, and clients that leave before their answer, others are served, and nothing stays behind."""
    from helpers.serving import send_and_leave

    for number, garbage in enumerate(GARBAGE * 3):
        with contextlib.suppress(ConnectionError), socket.create_connection(server.address, timeout=60) as client:
            client.sendall(garbage)
        send_and_leave(server.address, [["a very good film"]] * 8, speed=0.0)
        assert server.predict(TEXTS[number % 5], details=True, speed=0.0)["exit_layer"] == 4
    wait_until(lambda: server.service._pool.in_flight == (0, 0))
    assert server.request("GET", "/health")[0] == 200

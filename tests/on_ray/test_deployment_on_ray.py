"""The deployment on two nodes: answers are those of `predict`, replicas are added under load, and one that is killed
costs no more than the requests it had."""

from __future__ import annotations

import http.client
import json
import socket
import threading

import pytest

from helpers.cli import text_of
from helpers.ray_processes import kill_one, wait_until

pytestmark = [pytest.mark.proof, pytest.mark.long]

TEXTS = [text_of(number) for number in range(60)]
NAMES = {"no": 0, "yes": 1, "perhaps": 2}


@pytest.fixture(scope="module")
def expected(saved_model):
    import fastbert_kernels
    from fastbert_hf import predict
    from fastbert_ray.model_folder import load

    model, tokenizer = load(saved_model)
    return predict(fastbert_kernels.patch(model), tokenizer, TEXTS, speed=0.5)


@pytest.fixture(scope="module")
def port(cluster, saved_model):
    from ray import serve

    from fastbert_ray.deployment import Options, build

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    options = {"max_replicas": 2, "target_ongoing_requests": 1, "upscale_delay_s": 0, "max_queued_requests": -1}
    serve.run(build(Options(model=str(saved_model), **options)))
    yield port
    serve.shutdown()


def post(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("POST", "/predict", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def assert_right(number, answer, expected):
    assert answer["uncertainty"] == expected.uncertainty[number].item()
    assert answer["exit_layer"] == expected.exit_layer[number].item()
    logits = {row["label"]: row["score"] for row in answer["predictions"]}
    assert logits == {name: expected.logits[number, index].item() for name, index in NAMES.items()}


def running_replicas() -> int:
    from ray import serve

    states = serve.status().applications["default"].deployments["fastbert"].replica_states
    return sum(count for state, count in states.items() if getattr(state, "value", state) == "RUNNING")


def test_a_request_is_answered_as_by_predict_and_a_wrong_one_refused(port, expected):
    from ray import serve

    status, body = post(port, {"inputs": [[text] for text in TEXTS], "speed": 0.5, "details": True, "raw_scores": True})
    assert status == 200, body
    for number, answer in enumerate(json.loads(body)):
        assert_right(number, answer, expected)
    assert post(port, {"inputs": TEXTS[0], "speed": 2})[0] == 422

    answers = serve.get_app_handle("default").predict.remote(TEXTS[:3], speed=0.5).result(timeout_s=300)
    assert [answer["uncertainty"] for answer in answers] == expected.uncertainty[:3].tolist()
    best = [answer["predictions"][0]["label"] for answer in answers]
    assert best == expected.label_names[:3]


def test_a_replica_is_added_under_load_and_killed_and_every_request_is_answered_or_told(cluster, port, expected):
    ending, problems, statuses = threading.Event(), [], []

    def ask(first: int) -> None:
        number = first
        while not ending.is_set():
            number = (number + 7) % len(TEXTS)
            body = {"inputs": [[TEXTS[number]]], "speed": 0.5, "details": True, "raw_scores": True}
            try:
                status, content = post(port, body)
                statuses.append(status)
                if status == 200:
                    assert_right(number, json.loads(content)[0], expected)
                elif status < 500:
                    problems.append((status, content))
            except Exception as error:  # no answer and no word, or a wrong one
                problems.append(error)

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: running_replicas() == 2)  # by the queue
        kill_one(cluster, "ServeReplica")
        answered = statuses.count(200)
        wait_until(lambda: statuses.count(200) >= answered + 200)
        wait_until(lambda: running_replicas() == 2)  # again
    finally:
        ending.set()
        for client in clients:
            client.join()
    assert problems == []
    assert statuses.count(200) > 0.9 * len(statuses)

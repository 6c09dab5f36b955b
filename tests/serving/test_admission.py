"""Who is let in: so many requests from their head on, with a body that comes in time."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from helpers.requests_by_hand import BODY, HEAD, having_sent, not_reading, sent_at_once, statuses_on
from helpers.waiting import wait_until


@pytest.fixture
def server(tokenizer):
    from helpers.serving import patched_model, running

    with running(patched_model(), tokenizer, max_concurrent=2) as server:
        yield server


def test_requests_count_before_their_body_is_there(server):
    with having_sent(server, HEAD + BODY[:5]) as first, having_sent(server, HEAD) as second:
        status, headers, answer = server.request("POST", "/predict", {"inputs": "bad"})
        assert (status, answer["error_type"], headers["retry-after"]) == (429, "Overloaded", "1")
        assert "2 requests are being read" in answer["error"]
        assert [server.request("GET", path)[0] for path in ("/health", "/info", "/metrics")] == [200] * 3
        second.close()
        wait_until(lambda: len(server.server.server_state.tasks) == 1)
        assert server.predict("bad")
        first.sendall(BODY[5:])
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_does_not_come_to_its_end(server, monkeypatch):
    from fastbert_serving import admission
    from fastbert_serving.server import DRAIN_SECONDS

    assert admission.BODY_SECONDS < DRAIN_SECONDS
    monkeypatch.setattr(admission, "BODY_SECONDS", 0.2)
    for sent in (HEAD, HEAD + BODY[:5]):
        with having_sent(server, sent) as client:
            assert statuses_on(client) == [408]
    assert server.metric("fastbert_failures_total", kind="Timeout") == 2
    assert server.metric("fastbert_requests_total", endpoint="/predict", status="408") == 2
    assert server.predict("bad")


def test_nobody_without_the_key_keeps_its_owner_outside(tokenizer):
    """By requests that need none, ahead of each other, whose answers are never taken."""
    from helpers.serving import patched_model, running

    ahead = b"GET /openapi.json HTTP/1.1\r\n\r\nPOST /health HTTP/1.1\r\nContent-Length: 0\r\n\r\n" * 4000
    with (
        running(patched_model(), tokenizer, max_concurrent=1, api_key="sesame") as server,
        not_reading(server) as client,
    ):
        sender = threading.Thread(target=sent_at_once, args=(client, ahead))
        sender.start()
        (connection,) = server.server.server_state.connections
        wait_until(lambda: connection.flow.write_paused)
        time.sleep(0.3)  # until the system, too, takes no more
        assert connection.flow.write_paused
        key = {"Authorization": "Bearer sesame"}
        assert server.request("POST", "/predict", {"inputs": "bad"}, key)[0] == 200
        client.shutdown(socket.SHUT_RDWR)
        sender.join()


@pytest.mark.parametrize("path", ["/predict", "/predict%0A", "/nowhere"])
def test_all_that_needs_the_key_counts(server, path):
    """Also by what the router takes for the path of an endpoint, which is more than it says."""
    head = HEAD.replace(b"/predict", path.encode())
    with having_sent(server, HEAD), having_sent(server, HEAD):
        with socket.create_connection(server.address, timeout=60) as client:
            client.sendall(head + BODY)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 429 ")
        assert server.request("POST", "/health")[0] == 405


def test_an_answer_may_take_longer_than_a_body(server, monkeypatch):
    original = type(server.service).answer

    async def answer(service, *texts, **asked):
        import asyncio

        await asyncio.sleep(0.3)
        return await original(service, *texts, **asked)

    monkeypatch.setattr("fastbert_serving.admission.BODY_SECONDS", 0.1)
    monkeypatch.setattr(type(server.service), "answer", answer)
    assert server.predict("bad")

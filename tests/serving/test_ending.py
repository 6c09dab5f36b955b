"""A server that is told to end: who is answered, who is told to come again, and that nobody is reset."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import threading
import time

import pytest

from helpers.requests_by_hand import BODY, HEAD, answers_on, having_sent, statuses_on
from helpers.waiting import wait_until

HEALTH = b"GET /health HTTP/1.1\r\n\r\n"


@pytest.fixture
def server(tokenizer):
    from helpers.serving import patched_model, running

    with running(patched_model(), tokenizer) as server:
        yield server


def told_to_come_again(answer):
    """Return whether an answer is the refusal of a server that ends, and says that it is the connection's last."""
    head, _, body = answer.lower().partition(b"\r\n\r\n")
    return (
        head.startswith(b"http/1.1 503 ")
        and b"retry-after: 1" in head
        and b"connection: close" in head
        and b"starting or ending" in body
    )


def idle_connection(server):
    """Return a connection on which a request was answered."""
    client = socket.create_connection(server.address, timeout=60)
    client.sendall(HEALTH)
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    return client


def connection_of(server):
    """Return the server's side of the only connection."""
    (connection,) = server.server.server_state.connections
    return connection


@contextlib.contextmanager
def loop_standing_still(server):
    """Meanwhile the server's loop does nothing, for so long that it then looks first whether it is to end."""
    reached, free = threading.Event(), threading.Event()

    def stand():
        reached.set()
        assert free.wait(60)

    connection_of(server).loop.call_soon_threadsafe(stand)
    assert reached.wait(60)
    begin = time.monotonic()
    try:
        yield
        time.sleep(max(begin + 0.3 - time.monotonic(), 0))  # it looks every 0.1 s
    finally:
        free.set()


def test_from_the_signal_on_it_says_that_it_ends(server, monkeypatch):
    """And who was let in before is answered, also where the rest of the body comes behind the signal."""
    from fastbert_serving.server import Server

    seen = threading.Event()

    async def on_tick(server, counter):
        return server.should_exit and seen.is_set()

    monkeypatch.setattr(Server, "on_tick", on_tick)  # which closes connections, up to 0.1 s later
    with having_sent(server, HEAD + BODY[:5]) as client:
        assert server.request("GET", "/health")[0] == 200
        server.server.handle_exit(signal.SIGTERM, None)
        client.sendall(BODY[5:] + HEAD + BODY)
        for path, body in (("/health", None), ("/predict", {"inputs": "bad"})):
            status, headers, answer = server.request("GET" if body is None else "POST", path, body)
            assert (status, answer["error_type"]) == (503, "Unhealthy")
            assert (headers["retry-after"], headers["connection"]) == ("1", "close")
        assert [server.request("GET", path)[0] for path in ("/info", "/metrics")] == [200, 200]
        wait_until(lambda: server.metric("fastbert_requests_total", endpoint="/predict", status="503") == 2)
        seen.set()
        assert statuses_on(client) == [200, 503]


@pytest.mark.parametrize("sent", [HEALTH, HEAD + BODY], ids=["health", "predict"])
def test_requests_that_cross_its_end_are_answered_and_not_reset(server, sent):
    """On a connection that was idle, and on one that the system has made and the server has not seen."""
    with idle_connection(server) as idle:
        with loop_standing_still(server):
            unseen = [socket.create_connection(server.address, timeout=60) for _ in range(3)]
            for client in (idle, *unseen):
                client.sendall(sent)
            server.server.handle_exit(signal.SIGTERM, None)
        for client in (idle, *unseen):
            assert told_to_come_again(answers_on(client))
            client.close()


def test_a_large_body_is_read_before_its_refusal_closes_the_connection(server):
    body = json.dumps({"inputs": "bad " * 400_000}).encode()
    with idle_connection(server) as idle:
        server.server.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: connection_of(server)._ending)
        idle.sendall(HEAD.replace(b"%d" % len(BODY), b"%d" % len(body)) + body)
        assert told_to_come_again(answers_on(idle))


def test_idle_connections_are_closed_soon(server, monkeypatch):
    monkeypatch.setattr("fastbert_serving.protocol.GRACE_SECONDS", 0.2)
    with idle_connection(server) as idle, socket.create_connection(server.address, timeout=60) as silent:
        wait_until(lambda: len(server.server.server_state.connections) == 2)
        server.server.handle_exit(signal.SIGTERM, None)
        assert answers_on(idle) == answers_on(silent) == b""


def test_a_request_on_an_idle_connection_is_answered_a_moment_later(server, monkeypatch):
    """One that is not refused: what ends it is the connection, and not the endpoint."""
    monkeypatch.setattr("fastbert_serving.protocol.GRACE_SECONDS", 20.0)  # the moment may be long on a busy machine
    with idle_connection(server) as idle:
        server.server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.3)
        idle.sendall(b"GET /info HTTP/1.1\r\n\r\n")
        head, _, body = answers_on(idle).lower().partition(b"\r\n\r\n")
    assert head.startswith(b"http/1.1 200 ") and b"connection: close" in head and b"tiny" in body


def test_told_to_end_while_it_warms_up_it_is_never_ready(tokenizer, monkeypatch):
    from fastbert_serving.admission import is_ready
    from fastbert_serving.server import Server
    from helpers.serving import patched_model, running

    class ToldAtOnce(Server):
        async def startup(self, sockets=None):
            self.handle_exit(signal.SIGTERM, None)
            await super().startup(sockets)
            ready.append(is_ready(self._app.state))

    ready = []
    monkeypatch.setattr("helpers.serving.Server", ToldAtOnce)
    with running(patched_model(), tokenizer):
        pass
    assert ready == [False]


@pytest.mark.proof
def test_a_process_told_to_end_resets_nobody(tmp_path, tokenizer):
    """Clients that ask without a pause, each on one connection, until an answer says that it is the last."""
    from helpers.models import spread_model
    from soaking.process import ServerProcess

    spread_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    server = ServerProcess(tmp_path, tmp_path / "log", "sesame")
    headers = {"Authorization": "Bearer sesame", "Content-Type": "application/json"}
    answered, last, faults = threading.Barrier(9, timeout=60), [], []

    def ask(method, path, body):
        first, connection = True, http.client.HTTPConnection(*server.address, timeout=60)
        try:
            while True:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                response.read()
                assert response.status == 200 or (response.status, response.headers["retry-after"]) == (503, "1")
                if first:
                    answered.wait()
                first = False
                if response.headers.get("connection") == "close":
                    last.append(response.status)
                    return
        except BaseException as error:
            faults.append(error)

    asked = [("GET", "/health", None), ("POST", "/predict", BODY)] * 4
    clients = [threading.Thread(target=ask, args=each, daemon=True) for each in asked]
    try:
        for client in clients:
            client.start()
        answered.wait()
        assert server.terminate() == 0
        for client in clients:
            client.join(60)
    finally:
        server.kill()
    assert faults == [] and len(last) == len(asked) and 503 in last

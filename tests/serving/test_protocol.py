"""What a request may have on the wire: heads, chunks and trailers, with an end or without one."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time

import pytest

from helpers.requests_by_hand import not_reading, sent_at_once
from helpers.waiting import wait_until

LIMIT = 1 << 24  # of what a server would have to keep until a test calls it endless
CHUNKED = b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def locked(tokenizer):
    from helpers.serving import patched_model, running

    with running(patched_model(), tokenizer, api_key="sesame") as server:
        yield server


def connected(server):
    return socket.create_connection(server.address, timeout=60)


def answer_to(client):
    """Return status and body of the next answer on a connection."""
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, json.loads(response.read() or b"null")


def sent_until_closed(client, piece):
    """Send a piece again and again, until the server has closed the connection; return how much that was."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < LIMIT:
            sent += client.send(piece)
    return sent


def left_in(client):
    """Return what the server had to say last, unless it was lost with the connection."""
    with contextlib.suppress(ConnectionError):
        return client.recv(4096)
    return b""


def in_chunks(body, size):
    return b"".join(
        b"%x\r\n%s\r\n" % (len(body[at : at + size]), body[at : at + size]) for at in range(0, len(body), size)
    )


def test_a_body_in_chunks_has_a_limit(server):
    with connected(server) as client:
        client.sendall(CHUNKED + in_chunks(b" " * 50_000, 5000) + b"0\r\n\r\n")
        status, answer = answer_to(client)
    assert (status, answer["error_type"]) == (413, "TooLarge")


def test_a_body_in_many_small_chunks_with_a_trailer_is_answered(server):
    """Of which most bytes are no body."""
    body = json.dumps({"inputs": "bad"}).encode().ljust(19_000)
    with connected(server) as client:
        for _ in range(2):
            client.sendall(CHUNKED + in_chunks(body, 1) + b"0\r\nX-Sum: 7\r\n\r\n")
            assert answer_to(client) == (200, server.predict("bad"))


def test_a_body_that_comes_with_the_rest_of_its_head_is_no_part_of_it(server):
    with connected(server) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nX-One: ")
        time.sleep(0.1)  # or both would be one piece
        client.sendall(b"1\r\nContent-Length: 150000\r\n\r\n" + b" " * 150_000)
        status, answer = answer_to(client)
    assert (status, answer["error_type"]) == (413, "TooLarge")


def test_a_head_without_an_end_is_refused(server):
    """And a long one that ends is not: the first piece of a head is as long as the connection hands it over."""
    with connected(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n")
        assert answer_to(client) == (200, None)
        client.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nX-Long: ")
        assert sent_until_closed(client, b"a" * 4096) < LIMIT
        assert left_in(client)[:13] in (b"HTTP/1.1 400 ", b"")
    assert server.request("GET", "/health")[0] == 200


ENDLESS = {
    "a trailer": (b"0\r\nX: ", b"a" * 4096),
    "the name of a trailer": (b"0\r\n", b"a" * 4096),
    "trailers": (b"0\r\n", b"X: a\r\n" * 512),
    "the extension of a chunk": (b"1;x=", b"a" * 4096),
}


@pytest.mark.parametrize(("begin", "piece"), ENDLESS.values(), ids=ENDLESS)
def test_what_is_beside_a_body_has_an_end(server, begin, piece):
    with connected(server) as client:
        client.sendall(CHUNKED + begin)
        assert sent_until_closed(client, piece) < LIMIT
        assert left_in(client)[:13] in (b"HTTP/1.1 400 ", b"")
    assert server.request("GET", "/health")[0] == 200


@pytest.mark.parametrize(("begin", "piece"), ENDLESS.values(), ids=ENDLESS)
def test_what_is_beside_a_body_has_an_end_when_the_request_is_refused_already(locked, begin, piece):
    with connected(locked) as client:
        client.sendall(CHUNKED + begin)
        assert answer_to(client)[0] == 401
        assert sent_until_closed(client, piece) < LIMIT
        assert left_in(client) == b""  # one request, one answer
    assert locked.request("GET", "/health")[0] == 200


def test_a_connection_on_which_no_answer_is_taken_ends(locked, monkeypatch, caplog):
    """And nothing of it is the server's fault, also where more requests wait behind the answer."""
    monkeypatch.setattr("fastbert_serving.protocol.SLOW_SECONDS", 0.3)
    with not_reading(locked) as client:
        assert sent_until_closed(client, b"GET /openapi.json HTTP/1.1\r\n\r\n" * 50) < LIMIT
    wait_until(lambda: not locked.server.server_state.tasks)
    assert locked.request("GET", "/health")[0] == 200
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_connection_on_which_answers_are_taken_in_time_stays(server, monkeypatch):
    monkeypatch.setattr("fastbert_serving.protocol.SLOW_SECONDS", 0.2)
    wait_until(lambda: not server.server.server_state.connections)
    with connected(server) as client:
        wait_until(lambda: server.server.server_state.connections)
        (connection,) = server.server.server_state.connections
        for step in (connection.pause_writing, connection.resume_writing):
            connection.loop.call_soon_threadsafe(step)
        time.sleep(0.4)
        client.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert answer_to(client) == (200, None)


@pytest.mark.parametrize("pieces", [1, 1000], ids=["and stops", "and goes on"])
def test_the_rest_of_a_refused_body_has_to_come_in_time(locked, monkeypatch, pieces):
    """Of which each byte says that the connection is used."""
    monkeypatch.setattr("fastbert_serving.protocol.SLOW_SECONDS", 0.3)
    with connected(locked) as client:
        client.sendall(CHUNKED)
        assert answer_to(client)[0] == 401
        with contextlib.suppress(ConnectionError):
            for piece in range(pieces):
                assert piece < 500  # by then it is closed
                client.sendall(b"1\r\na\r\n")
                time.sleep(0.02)
        assert left_in(client) == b""


def test_a_connection_stays_whose_refused_body_came(locked, monkeypatch):
    monkeypatch.setattr("fastbert_serving.protocol.SLOW_SECONDS", 1.0)
    with connected(locked) as client:
        client.sendall(CHUNKED)
        assert answer_to(client)[0] == 401
        client.sendall(b"1\r\na\r\n0\r\n\r\n")
        for _ in range(2):
            client.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            assert answer_to(client) == (200, None)
            time.sleep(1.2)


def test_requests_that_are_sent_ahead_wait_outside(server):
    """Of many at once, a piece of what comes is here, and not more with every answer."""
    request, count, answered, most = b"GET /health HTTP/1.1\r\n\r\n", 60_000, 0, 0
    with connected(server) as client:
        sender = threading.Thread(target=sent_at_once, args=(client, request * count))
        sender.start()
        while answered < 200:
            answered += client.recv(4096).count(b"HTTP/1.1 200 ")
            most = max([most, *(len(each.pipeline) for each in tuple(server.server.server_state.connections))])
        client.shutdown(socket.SHUT_RDWR)
        sender.join()
    assert 0 < most < count / 4
    with connected(server) as client:
        client.sendall(request * 300 + CHUNKED + in_chunks(b'{"inputs": "bad"}', 4) + b"0\r\n\r\n" + request * 3)
        received = b""
        while received.count(b"HTTP/1.1 ") < 304:
            received += client.recv(1 << 16)
        assert received.count(b"HTTP/1.1 200 ") == 304

"""Requests to a server of `helpers.serving` that are written to a connection byte by byte."""

from __future__ import annotations

import contextlib
import json
import re
import socket

from helpers.waiting import wait_until

BODY = json.dumps({"inputs": "bad"}).encode()
HEAD = b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@contextlib.contextmanager
def having_sent(server, data):
    """A connection on which something was sent that the server works on."""
    before = len(server.server.server_state.tasks)
    with socket.create_connection(server.address, timeout=60) as client:
        client.sendall(data)
        wait_until(lambda: len(server.server.server_state.tasks) == before + 1)
        yield client


@contextlib.contextmanager
def not_reading(server):
    """A connection that the server sees, on which little arrives as long as nobody reads from it."""
    before = len(server.server.server_state.connections)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(server.address)
        wait_until(lambda: len(server.server.server_state.connections) == before + 1)
        yield client


def sent_at_once(client, data):
    """Send, as much as the server takes."""
    with contextlib.suppress(OSError):  # it has enough
        client.sendall(data)


def answers_on(client):
    """Return all that comes on a connection, until it is closed."""
    received = b""
    while piece := client.recv(1 << 16):
        received += piece
    return received


def statuses_on(client):
    """Return the statuses of all answers on a connection, until it is closed."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers_on(client))]

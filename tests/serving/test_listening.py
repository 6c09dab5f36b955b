"""Addresses of servers: who has a path, from when to when, and what is told to whoever comes second."""

from __future__ import annotations

import socket
import threading

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'fastbert-kernels[serve]'")

from fastapi import FastAPI

from fastbert_serving.listening import bind_unix
from fastbert_serving.server import Server
from helpers.serving import UnixConnection
from helpers.waiting import wait_until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


def unix():
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def assert_reached(path, listener):
    """A client of the path reaches this listener."""
    with unix() as client:
        client.connect(str(path))
        accepted, _ = listener.accept()
        accepted.close()


def test_a_path_is_taken_as_soon_as_it_is_bound(path):
    bound = bind_unix(path)  # and the model is loaded now
    with pytest.raises(OSError, match="another server has it, or is starting there"):
        bind_unix(path)
    bound.listen()
    with pytest.raises(OSError, match="another server has it"):
        bind_unix(path)
    assert_reached(path, bound)
    bound.close()
    bound.close()
    assert list(path.parent.iterdir()) == []
    bind_unix(path).close()


def test_what_a_killed_server_left_is_replaced(path):
    with unix() as killed:
        killed.bind(str(path))
    path.with_name(".socket.lock").touch()
    with bind_unix(path) as bound:
        bound.listen()
        assert_reached(path, bound)
    assert list(path.parent.iterdir()) == []


def test_other_programs_keep_what_is_theirs(path):
    with unix() as other, unix() as waiting:
        other.bind(str(path))
        other.listen(0)
        waiting.connect(str(path))  # so that nobody else could, without waiting
        with pytest.raises(OSError, match="in use"):
            bind_unix(path)
        assert list(path.parent.iterdir()) == [path]
        other.accept()[0].close()
        with pytest.raises(OSError, match="in use"):
            bind_unix(path)
        other.accept()[0].close()
        assert_reached(path, other)
    path.unlink()
    path.write_text("a file")
    with pytest.raises(OSError, match="in use"):
        bind_unix(path)
    assert path.read_text() == "a file"


def test_a_path_that_another_has_taken_over_stays(path):
    with bind_unix(path) as bound, unix() as other:
        bound.listen()
        path.unlink()
        other.bind(str(path))
        other.listen()
        bound.close()
        assert_reached(path, other)


def test_a_path_that_cannot_be(path):
    for name in (path / "no" / "folder", path.with_name("x" * 200)):
        with pytest.raises(OSError):
            bind_unix(name)
    assert list(path.parent.iterdir()) == []


def test_the_next_server_has_the_path_while_the_last_one_answers(path):
    app, entered, free, ready, got = FastAPI(), threading.Event(), threading.Event(), threading.Event(), []

    @app.get("/slow")
    def slow():
        entered.set()
        assert free.wait(60)

    def ask():
        connection = UnixConnection(path)
        connection.request("GET", "/slow")
        got.append(connection.getresponse().status)
        connection.close()

    last = bind_unix(path)
    server = Server(app, ready.set)
    threads = [threading.Thread(target=server.run, kwargs={"sockets": [last]}), threading.Thread(target=ask)]
    try:
        threads[0].start()
        assert ready.wait(60)
        threads[1].start()
        assert entered.wait(60)
        server.should_exit = True
        wait_until(lambda: not path.exists())
        new = bind_unix(path)
        new.listen()
    finally:
        free.set()
        server.should_exit = True
        for thread in threads:
            thread.join(60)
        last.close()
    assert got == [200]
    assert_reached(path, new)
    new.close()
    assert list(path.parent.iterdir()) == []

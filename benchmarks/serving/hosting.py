"""A contestant's server, in a process of its own on loopback."""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from peers.contestant import NotAvailable
from serving.subjects import LONGEST, Subject

_MOST_CONCURRENT = 4096  # nobody is turned away: who waits too long is counted as late


def _serve(connection: Connection, name: str, subject: Subject, dtype: Any) -> None:
    from transformers.utils import logging

    from fastbert_serving.app import create_app
    from fastbert_serving.listening import bind
    from fastbert_serving.metrics import Metrics
    from fastbert_serving.server import Server
    from fastbert_serving.settings import Settings
    from serving.contestants import CONTESTANTS

    logging.disable_progress_bar()
    settings = Settings(max_length=LONGEST, max_concurrent=_MOST_CONCURRENT)
    bound = bind("127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as folder:
        try:
            metrics = Metrics(_depth(subject))
            service = CONTESTANTS[name](subject, dtype, settings, metrics, Path(folder))
        except NotAvailable as reason:
            connection.send(str(reason))
            return
        app = create_app(service, settings, metrics, model_id=name, precision=str(dtype))
        server = Server(app, lambda: connection.send(bound.getsockname()[1]))
        threading.Thread(target=_obey, args=(connection, server), daemon=True).start()
        server.run(sockets=[bound])
    bound.close()


def _depth(subject: Subject) -> int:
    from fastbert_hf import FastBertConfig

    depth: int = FastBertConfig.from_pretrained(subject.fastbert).num_hidden_layers
    return depth


def _obey(connection: Connection, server: Any) -> None:
    """Tell the CPU seconds of this process as often as asked, and then end the server."""
    while connection.recv():
        connection.send(time.process_time())
    server.should_exit = True


class Hosted:
    """A running server.

    Attributes:
        port: on loopback; known once it is ready.
    """

    def __init__(self, name: str, subject: Subject, dtype: Any) -> None:
        """Begin to load it.

        Args:
            name: a key of `serving.contestants.CONTESTANTS`.
            subject: that it serves.
            dtype: of our own contestants.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, name, subject, dtype), daemon=True)
        self._process.start()
        other.close()
        self.port = 0

    def wait_until_ready(self) -> None:
        """Wait until it listens.

        Raises:
            NotAvailable: what it needs is not installed.
            RuntimeError: it failed.
        """
        try:
            said = self._connection.recv()
        except EOFError:
            raise RuntimeError("a server ended before it listened; its error stands above") from None
        if isinstance(said, str):
            self._process.join()
            raise NotAvailable(said)
        self.port = said

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that the process has taken so far."""
        self._connection.send(True)
        seconds: float = self._connection.recv()
        return seconds

    def stop(self) -> None:
        """Let it answer everybody, and end."""
        self._connection.send(False)
        self._process.join(60)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

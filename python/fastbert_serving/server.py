"""Run the server until it is told to end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from fastbert_serving.protocol import BoundedProtocol

DRAIN_SECONDS = 30

# So long one thread keeps the interpreter from others that want it. The thread that computes wants it back behind every
# step of the pool; with the 5 ms of Python it stood still for longer than short steps take.
SWITCH_SECONDS = 5e-4


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, so that a taken port is told before the model is loaded.

    Args:
        host: name or address.
        port: 0 for any that is free.

    Raises:
        OSError: it cannot be bound.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def bind_unix(path: Path) -> socket.socket:
    """Return a bound socket at a path, for users who may write to its folder; one that nobody listens at is replaced.

    Args:
        path: of the socket.

    Raises:
        OSError: it cannot be bound, or somebody listens there.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                    client.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink()  # left by one that was killed
        bound.bind(os.fspath(path))
    except OSError:
        bound.close()
        raise
    return bound


def name_of(bound: socket.socket) -> str:
    """Return where a socket is reached, as clients write it."""
    if bound.family == socket.AF_UNIX:
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C; then lets nobody in, answers those who are, and ends."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        """
        Args:
            app: as `fastbert_serving.app.create_app` makes it.
            ready: is called when the server listens.
        """
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        self._ready = ready
        self._switch_before = sys.getswitchinterval()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Warm up, then listen."""
        await super().startup(sockets)
        if self.started:
            sys.setswitchinterval(SWITCH_SECONDS)
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody in, and wait for those who are."""
        await super().shutdown(sockets)
        sys.setswitchinterval(self._switch_before)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on signals without raising them again, so that whoever runs the server can tidy up behind it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Meanwhile the line of each request goes to stderr, and what the HTTP library has to complain of."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    levels = {"fastbert_serving": logging.INFO, "uvicorn.error": logging.WARNING}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: (logger.handlers, logger.propagate, logger.level) for logger in loggers}
    try:
        for logger, level in loggers.items():
            logger.handlers, logger.propagate = [handler], False
            logger.setLevel(level)
        yield
    finally:
        for logger, (handlers, propagate, level) in before.items():
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)

"""Run the server until it is told to end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from fastbert_serving.protocol import BoundedProtocol

DRAIN_SECONDS = 30

# So long one thread keeps the interpreter from others that want it. The thread that computes wants it back behind every
# step of the pool; with the 5 ms of Python it stood still for longer than short steps take.
SWITCH_SECONDS = 5e-4


class ListenError(OSError):
    """A socket that is bound cannot listen."""


class Server(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C; then lets nobody in, answers those who are, and ends."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        """
        Args:
            app: as `fastbert_serving.app.create_app` makes it.
            ready: is called when the server listens.
        """
        # `admission.Admitted` bounds the requests that are read, and not uvicorn's `limit_concurrency`, which looks at
        # heads as well, but counts connections, idle ones of polite clients, too, and would refuse /health with them.
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
        self._app, self._ready = app, ready
        self._switch_before = sys.getswitchinterval()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Warm up, then listen; `started` says whether it came to that.

        Raises:
            ListenError: somebody else listens at the address by now.
        """
        try:
            await super().startup(sockets)
            if any(each.fileno() == -1 for each in sockets or ()):  # uvloop has closed one that cannot, without a word
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        except SystemExit:  # what uvicorn does where the application could not start
            self.should_exit = True
        except OSError as error:
            await self.lifespan.shutdown()
            raise ListenError(error.errno, error.strerror) from error
        if self.started:
            sys.setswitchinterval(SWITCH_SECONDS)
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody in, and wait for those who are."""
        self._app.state.ending = True  # where it was no signal that said so
        await self._stop_listening(sockets or ())
        await super().shutdown(sockets)
        sys.setswitchinterval(self._switch_before)

    async def _stop_listening(self, sockets: Sequence[socket.socket]) -> None:
        """Stop, and take in those whom the system has connected and nobody has seen, who would be reset.

        Whom it connects between the last look and the end of the socket is reset all the same; nothing can be done
        about that, and it is a moment, where it was a turn of the loop.
        """
        still = []
        with suppress(OSError):  # as many files are open as may be
            still = [socket.socket(fileno=os.dup(each.fileno())) for each in sockets]
        for server in self.servers:
            server.close()
        for given in sockets:
            given.close()
        connected = []
        for each in still:
            with each, suppress(OSError):  # BlockingIOError: there are no more
                each.setblocking(False)
                for _ in range(self.config.backlog):
                    connected.append(each.accept()[0])
        loop = asyncio.get_running_loop()
        for connection in connected:
            await loop.connect_accepted_socket(
                lambda: BoundedProtocol(self.config, self.server_state, self.lifespan.state), connection
            )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end: from now on those whose request begins on an open connection are told so."""
        self._app.state.ending = True
        super().handle_exit(sig, frame)

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

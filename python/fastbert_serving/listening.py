"""Where a server listens: addresses that are taken before the model is loaded, and given back when nobody listens."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

from fastbert_hf.files import locked


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, so that a taken port is told before the model is loaded.

    A port at which another server is going to listen, but does not yet, looks free; who comes second at listening is
    told then (`server.Server.startup`).

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


def bind_unix(path: Path) -> PathSocket:
    """Return a bound socket at a path, for users who may write to its folder; one that nobody listens at is replaced.

    Args:
        path: of the socket.

    Raises:
        OSError: it cannot be bound, somebody listens there, or another server is going to.
    """
    bound = PathSocket()
    try:
        bound.take(path)
    except OSError:
        bound.close()
        raise
    return bound


class PathSocket(socket.socket):
    """A Unix socket that has a path from `take` to `close`, also while nobody listens at it yet.

    It holds the lock `.NAME.lock` beside the path, so that another server that is started meanwhile is told, and does
    not take the path for one that was left behind. uvicorn closes the sockets of a server as soon as that lets nobody
    in any more; the next server may have the path while those who were let in are answered.
    """

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._taken = ExitStack()  # what is undone when the path is given back, the last first

    def take(self, path: Path) -> None:
        """Bind to a path.

        Raises:
            OSError: see `bind_unix`.
        """
        lock = path.with_name(f".{path.name}.lock")
        try:
            descriptor = locked(lock)
        except BlockingIOError:
            raise OSError(errno.EADDRINUSE, "another server has it, or is starting there") from None
        self._taken.callback(os.close, descriptor)
        self._taken.callback(_remove, lock)
        if path.is_socket() and _nobody_listens(path):
            path.unlink()  # left by one that was killed
        self.bind(os.fspath(path))
        self._taken.callback(_remove, path, os.lstat(path))

    def close(self) -> None:
        """Give the path back, and close."""
        self._taken.close()
        super().close()


def _nobody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # or it might wait for a listener that accepts nobody
        try:
            client.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            pass
    return False


def _remove(path: Path, own: os.stat_result | None = None) -> None:
    """Remove a file, if it is the one that `own` was once told of; what cannot be removed stays."""
    with suppress(OSError):
        if own is None or os.path.samestat(os.lstat(path), own):
            path.unlink()


def name_of(bound: socket.socket) -> str:
    """Return where a socket is reached, as clients write it."""
    if bound.family == socket.AF_UNIX:
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""Writing results so that a fault leaves either the old file or the new one, never half of one, and that no two runs
write one output.

What is not complete has a random name that is created exclusively, so that nobody can lay a link in its place.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
# What a file system answers that has no such call, or no locks.
_NOT_THERE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK)


class OutputInUseError(OSError):
    """Another run writes this output now."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) under a temporary name beside `path`, then rename it."""
    temporary = _beside(path, "tmp")
    try:
        with os.fdopen(os.open(temporary, _NEW, 0o666), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def file_written_atomically(path: Path) -> Iterator[TextIO]:
    """A new UTF-8 file to write into bit by bit, which takes the place of `path` when the block ends without an
    exception.

    Raises:
        OutputInUseError: another block, in any process, does the same.
    """
    with (
        bytes_written_atomically(path) as raw,
        io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as file,
    ):
        yield file


@contextmanager
def bytes_written_atomically(path: Path) -> Iterator[BinaryIO]:
    """The same of bytes."""
    with sole_writer(path):
        temporary = _beside(path, "partial")
        try:
            with os.fdopen(os.open(temporary, _NEW, 0o666), "wb") as file:
                yield file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_atomically(path: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `path` when the block ends without an exception.

    The old folder and the new one change places in one step where the system can, so that there is one at any time.

    Raises:
        OutputInUseError: another block, in any process, does the same.
    """
    path = Path(os.path.realpath(path))  # the folder that a link of the user leads to
    path.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(path):
        temporary = _beside(path, "partial")
        temporary.mkdir()
        try:
            yield temporary
            if path.exists():
                _exchange(temporary, path)
            else:
                os.replace(temporary, path)
        finally:
            _remove(temporary)


@contextmanager
def files_replaced(folder: Path) -> Iterator[Path]:
    """A new folder to write files into, which take the place of those of their names in `folder` when the block ends
    without an exception; the other files there stay. Each is replaced in one step, all of them one after the other.

    Raises:
        OutputInUseError: another block, in any process, does the same.
    """
    with sole_writer(folder / "files"):
        temporary = _beside(folder / "files", "partial")
        temporary.mkdir()
        try:
            yield temporary
            for path in sorted(temporary.iterdir()):
                os.replace(path, folder / path.name)
        finally:
            _remove(temporary)


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Lock the output `path` for the block, and remove what runs that were killed have left of it.

    The lock is a file beside `path`, held open; it ends with the process, however that ends. File systems without locks
    are written to without one.

    Raises:
        OutputInUseError: another block, in any process, has the lock.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        descriptor = locked(lock)
    except BlockingIOError as error:
        message = f"another run is writing {path}; wait until it has ended, or choose another name"
        raise OutputInUseError(message) from error
    try:
        left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.partial")
        for entry in path.parent.iterdir():
            if left.fullmatch(entry.name):
                _remove(entry)
        yield
    finally:
        lock.unlink(missing_ok=True)  # before the lock ends, so that nobody waits for a file that is gone
        os.close(descriptor)


def locked(lock: Path) -> int:
    """Make the file `lock`, which is empty, and lock it until the descriptor that is returned is closed, or the process
    ends; whoever removes the file closes the descriptor behind that. File systems without locks lock nothing.

    Raises:
        BlockingIOError: another descriptor, in any process, has the lock.
        OSError: the file cannot be made.
    """
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                    return descriptor
        except OSError as error:
            if error.errno in _NOT_THERE:
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)  # the run before removed the file after it was opened here


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{ending}")


def _exchange(temporary: Path, path: Path) -> None:
    """Let both change places; where the system cannot in one step, `path` is away for a moment, and kept beside it."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        number = errno.ENOSYS
    else:
        failed = rename(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE)
        number = ctypes.get_errno() if failed else 0
    if number in _NOT_THERE:
        old = _beside(path, "old")
        os.rename(path, old)
        try:
            os.rename(temporary, path)
        except OSError:
            os.rename(old, path)
            raise
        os.rename(old, temporary)
    elif number:
        raise OSError(number, os.strerror(number), str(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

"""How commands end when they cannot go on: one line on stderr, with one below it for each of several bad rows, and
exit status 2, or 130 after Ctrl-C; a fault of the program itself with its traceback, a request to report it, and exit
status 1."""

from __future__ import annotations

import errno
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from safetensors import SafetensorError

# What the library raises for settings, files, a full disk and checkpoints that do not fit.
FAULTS = (ValueError, OSError, RuntimeError, SafetensorError)
_ROOM = 1 << 20  # bytes, below which a disk is full
_OUR_FAULT = (
    "this is a fault of fastbert, not of yours; please report it with the lines above and the output of fastbert info"
)


class CommandError(Exception):
    """The command cannot run; the message is one line with the remedy.

    Args:
        message: the line.
        lines: of a report, to show below it.
    """

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = lines


@contextmanager
def reported(command: str, stopped: Callable[[], str] = lambda: "stopped", extra: str = "train") -> Iterator[None]:
    """End the program as above when the block raises.

    Args:
        command: name of the command, for the line.
        stopped: called after Ctrl-C; says what is left and how to go on.
        extra: of the package that has what the command needs.
    """
    try:
        yield
        sys.stdout.flush()  # a full disk is told here, not when the interpreter ends
    except KeyboardInterrupt:
        typer.echo(f"\nfastbert {command}: {stopped()}", err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:  # the reader, such as head, has enough; Typer ends without a word
        raise
    except typer.Exit:
        raise
    except Exception as error:
        message = _message(error, extra)
        if message is None:
            traceback.print_exc()
            typer.echo(f"fastbert {command}: {_OUR_FAULT}", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"fastbert {command}: {message}", err=True)
        for line in getattr(error, "lines", ()):  # of a report
            typer.echo(f"  {line}", err=True)
        raise typer.Exit(2) from None


def _message(error: Exception, extra: str) -> str | None:
    """Return what to tell the user, or `None` for an error that is the program's own."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is missing; pip install 'fastbert-kernels[{extra}]' has all it needs"
    if isinstance(error, MemoryError):
        return "out of memory; give smaller batches, shorter texts (--max-length) or less data"
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return f"standard output, or another stream, cannot be written ({error.strerror})"
    return one_line(error) if isinstance(error, (CommandError, *FAULTS)) else None


@contextmanager
def faults_explained(where: str = "", remedy: str = "") -> Iterator[None]:
    """Turn `FAULTS` of the block into a `CommandError` of one line: where, what, and what helps."""
    try:
        yield
    except FAULTS as error:
        parts = [f"{where}: " if where else "", one_line(error), f"; {remedy}" if remedy else ""]
        raise CommandError("".join(parts), getattr(error, "lines", ())) from error


@contextmanager
def foreign_files() -> Iterator[None]:
    """Turn whatever the block raises while it reads files of others into a `ValueError` with its type and message.

    The readers of Transformers, tokenizers and pickle raise anything for a file that is not what they take it for.
    """
    try:
        yield
    except FAULTS:
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def is_disk_full(error: BaseException | None, folder: Path) -> bool:
    """Return True if `error` is that of a disk without room, which libraries tell in several ways."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if isinstance(error, SafetensorError) and "No space left" in str(error):
        return True
    try:
        return isinstance(error, FAULTS) and shutil.disk_usage(folder).free < _ROOM
    except OSError:
        return False


def one_line(error: Exception) -> str:
    """Return the message of `error` without line breaks and the lines of a report, or its type where it has none."""
    return " ".join(getattr(error, "headline", str(error)).split()) or type(error).__name__


def shell_command(*words: str | Path) -> str:
    """Return a command line that a user can copy."""
    return shlex.join(map(str, words))

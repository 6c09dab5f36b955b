"""How commands end when they cannot go on: one line on stderr, exit status 2, or 130 after Ctrl-C."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from safetensors import SafetensorError

# What the library raises for settings, files, a full disk and checkpoints that do not fit.
FAULTS = (ValueError, OSError, RuntimeError, SafetensorError)


class CommandError(Exception):
    """The command cannot run; the message is one line with the remedy."""


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
    except KeyboardInterrupt:
        typer.echo(f"\nfastbert {command}: {stopped()}", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        message = _message(error, extra)
        if message is None:
            raise
        typer.echo(f"fastbert {command}: {message}", err=True)
        raise typer.Exit(2) from None


def _message(error: Exception, extra: str) -> str | None:
    """Return what to tell the user, or `None` for an error that is the program's own."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is missing; pip install 'fastbert-kernels[{extra}]' has all it needs"
    if isinstance(error, CommandError):
        return str(error)
    from fastbert_hf.data import DataFileError  # here, so that no help waits for the library

    return str(error) if isinstance(error, DataFileError) else None


@contextmanager
def faults_explained(where: str = "", remedy: str = "") -> Iterator[None]:
    """Turn `FAULTS` of the block into a `CommandError` of one line: where, what, and what helps."""
    try:
        yield
    except FAULTS as error:
        parts = [f"{where}: " if where else "", one_line(error), f"; {remedy}" if remedy else ""]
        raise CommandError("".join(parts)) from error


def one_line(error: Exception) -> str:
    """Return the message of `error` without line breaks, or its type where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def shell_command(*words: str | Path) -> str:
    """Return a command line that a user can copy."""
    return shlex.join(map(str, words))

"""How commands end when they cannot go on: one line on stderr, exit status 2, or 130 after Ctrl-C."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from safetensors import SafetensorError

from fastbert_hf.data import DataFileError

# What the library raises for settings, files, a full disk and checkpoints that do not fit.
FAULTS = (ValueError, OSError, RuntimeError, SafetensorError)


class CommandError(Exception):
    """The command cannot run; the message is one line with the remedy."""


@contextmanager
def reported(command: str, interrupted: Callable[[], str], extra: str = "train") -> Iterator[None]:
    """Ends the program as above when the block raises.

    Args:
        command: name of the command, for the line.
        interrupted: called after Ctrl-C; says what is left and how to go on.
        extra: of the package that has what the command needs.
    """
    try:
        yield
    except (CommandError, DataFileError) as error:
        typer.echo(f"fastbert {command}: {error}", err=True)
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        typer.echo(
            f"fastbert {command}: {error.name} is missing; pip install 'fastbert-kernels[{extra}]' has all it needs",
            err=True,
        )
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo(f"\nfastbert {command}: {interrupted()}", err=True)
        raise typer.Exit(130) from None


@contextmanager
def faults_explained(where: str = "", remedy: str = "") -> Iterator[None]:
    """Turns `FAULTS` of the block into a `CommandError` of one line: where, what, and what helps."""
    try:
        yield
    except FAULTS as error:
        parts = [f"{where}: " if where else "", one_line(error), f"; {remedy}" if remedy else ""]
        raise CommandError("".join(parts)) from error


def one_line(error: Exception) -> str:
    """The message of `error` without line breaks; its type where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def shell_command(*words: str | Path) -> str:
    """A command line that a user can copy."""
    return shlex.join(map(str, words))

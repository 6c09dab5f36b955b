"""The console command `fastbert`. The only part of the package that sees both the model and the kernels."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point; says what to install when a command's needs are missing."""
    if sys.stdout is None:  # closed before the start, as by >&-
        print("fastbert: standard output is closed; give it a file, or /dev/null", file=sys.stderr)
        sys.exit(2)
    try:
        from fastbert_cli.app import app
    except ModuleNotFoundError as error:
        sys.exit(f"fastbert: {error.name} is missing; pip install 'fastbert-kernels[train]' has all it needs")
    try:
        app()
    except OSError as error:  # of the help and the version, which are no command's; commands report their own
        print(f"fastbert: standard output cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(2)

"""Messages of the library with options as they are typed, in place of the arguments of its functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from fastbert_cli.errors import CommandError, faults_explained

_OPTIONS = {
    "max_drop": "--max-drop",
    "max_disagreement": "--max-disagreement",
    "max_f1_drop": "--max-f1-drop",
    "max_score_change": "--max-score-change",
    "min_speedup": "--min-speedup",
    "max_latency_ms": "--latency-ms",
    "less confidence": "less --confidence",
    "confidence must": "--confidence must",
}
# Not within a path, a longer name or quotation marks.
_ARGUMENT = re.compile(rf"(?<![\w'/.-])({'|'.join(_OPTIONS)})(?![\w'/-]|\.\w)(=?)")


@contextmanager
def options_named() -> Iterator[None]:
    """Turn faults of the library into `CommandError`, as `faults_explained` does, with options as they are typed."""
    try:
        with faults_explained():
            yield
    except CommandError as error:
        if error.__cause__ is None:  # the message is the command's own
            raise
        raise CommandError(as_typed(str(error)), error.lines) from error.__cause__


def as_typed(message: str) -> str:
    """Return `message` with the options of `fastbert calibrate` in place of the arguments of `calibrate`."""
    return _ARGUMENT.sub(lambda found: _OPTIONS[found[1]] + (" " if found[2] else ""), message)

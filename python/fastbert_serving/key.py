"""The key that requests must bring."""

from __future__ import annotations

import os

VARIABLE = "FASTBERT_API_KEY"


def key_of(option: str | None = None) -> str | None:
    """Return the key that requests must bring; `None` where nobody has given one, so that everybody is served.

    Args:
        option: of `--api-key`; `None`: the key is that of the variable `FASTBERT_API_KEY`, if there is one.

    Raises:
        ValueError: a key that is empty or white space, or has some at its ends. Whoever gives one wants a lock, and an
            empty one, of a secret that was never filled in, would be none; with a line break behind it, as secrets in
            files have, it would be one that nobody can open: HTTP cuts off what stands around a header's value.
    """
    source, key = (VARIABLE, os.environ.get(VARIABLE)) if option is None else ("--api-key", option)
    if key is not None and not key.strip():
        remedy = f"unset {VARIABLE}" if option is None else "leave the option out"
        raise ValueError(f"{source} is empty; give it a key, or {remedy} to serve everybody without one")
    if key is not None and key != key.strip():
        raise ValueError(f"{source} begins or ends with white space, which no request can send; remove it from the key")
    return key

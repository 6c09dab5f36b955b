"""The key that requests must bring."""

from __future__ import annotations

import os

VARIABLE = "FASTBERT_API_KEY"


def key_of(option: str | None = None) -> str | None:
    """Return the key that requests must bring; `None` where nobody has given one, so that everybody is served.

    Args:
        option: of `--api-key`; `None`: the key is that of the variable `FASTBERT_API_KEY`, if there is one.

    Raises:
        ValueError: a key that is empty or white space. Whoever gives one wants a lock, and an empty one, of a secret
            that was never filled in, would be none.
    """
    source, key = (VARIABLE, os.environ.get(VARIABLE)) if option is None else ("--api-key", option)
    if key is not None and not key.strip():
        remedy = f"unset {VARIABLE}" if option is None else "leave the option out"
        raise ValueError(f"{source} is empty; give it a key, or {remedy} to serve everybody without one")
    return key

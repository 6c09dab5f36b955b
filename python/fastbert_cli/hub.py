"""Names on the Hugging Face hub, asked for before the libraries that would try an unreachable one for minutes."""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from fastbert_cli.errors import CommandError

_SECONDS = 2.0
_TRUE = ("1", "on", "yes", "true")
_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def look_at_hub(name: str, kind: Literal["models", "datasets"]) -> None:
    """Raise `CommandError` for a name that can only be on the hub, where nobody can be reached.

    What an earlier run has fetched is used then, without asking the hub. Paths are not looked at, nor anything where a
    proxy or `HF_HUB_OFFLINE` decides.

    Args:
        name: as given in place of a folder.
        kind: of what has the name there.
    """
    path = Path(name)
    if path.exists() or path.is_absolute() or len(path.parts) > 2 or name.startswith("."):
        return
    if kind == "datasets" and importlib.util.find_spec("datasets") is None:
        return  # reading says so
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE or any(map(os.environ.get, _PROXIES)):
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    problem = _problem(address.hostname or "", address.port or (80 if address.scheme == "http" else 443))
    if problem is None:
        return
    if _was_fetched(name, kind):
        os.environ["HF_HUB_OFFLINE"] = "1"
        return
    raise CommandError(
        f"{name}: nothing here has that name, and {address.hostname}, which might, cannot be reached ({problem}); "
        "check the path or the network, or give a folder"
    )


def _problem(host: str, port: int) -> str | None:
    """Return why nothing can be reached there; `None`: it can. Looking a name up has no time limit of its own."""
    found: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), _SECONDS).close()
            found.append(None)
        except OSError as error:
            found.append(error.strerror or str(error))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return found[0] if found else f"no answer within {_SECONDS:g} s"


def _was_fetched(name: str, kind: str) -> bool:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    home = Path(os.environ.get("HF_HOME") or home)
    folders = [
        Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"{kind}--{name.replace('/', '--')}",
        Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets") / name.replace("/", "___"),
    ]
    return any(folder.is_dir() for folder in folders)

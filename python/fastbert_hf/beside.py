"""Files of our own that a saved model has beside its weights, in a folder or on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

# Options of `from_pretrained` that say where its files are.
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def file_beside_weights(name_or_path: str | Path | None, file: str, options: Mapping[str, Any]) -> Path | None:
    """Return where `file` is beside the weights that were just loaded; `None`: there is none.

    Args:
        name_or_path: folder or hub name, as given to `from_pretrained`; `None`, where it took weights instead.
        file: its name.
        options: of that call; those that say where to look are used (`subfolder`, `revision`, `cache_dir`, ...).
    """
    if name_or_path is None:
        return None
    local = Path(name_or_path) / options.get("subfolder", "")
    if local.is_dir():
        return local / file if (local / file).exists() else None
    found = cached_file(
        str(name_or_path),
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
        **{name: value for name, value in options.items() if name in _WHERE},
    )
    return None if found is None else Path(found)

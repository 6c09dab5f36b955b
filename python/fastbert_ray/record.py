"""What a job on files is, written beside its answers, so that no other job goes on with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastbert_hf.files import write_atomically

RECORD = "_fastbert.json"  # readers of folders of Parquet leave out what begins with _


class OtherJobError(ValueError):
    """The output folder holds answers of another job."""


def begin_or_go_on(output: Path, job: dict[str, Any]) -> None:
    """Write the record of a job into its folder, or see that the one there is the same.

    Args:
        output: folder.
        job: plain data.

    Raises:
        OtherJobError: another job's, and in what it differs; or files that no job wrote.
    """
    path = output / RECORD
    if not path.exists():
        foreign = sorted(entry.name for entry in output.iterdir() if not entry.name.startswith("."))
        if foreign:
            raise OtherJobError(f"{output}: holds {foreign[0]}, and is no output of a job; name a new folder")
        write_atomically(path, json.dumps(job, indent=1) + "\n")
        return
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OtherJobError(f"{path}: not a record of a job ({error}); name a new folder") from error
    now = json.loads(json.dumps(job))
    other = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if other:
        raise OtherJobError(
            f"{output}: the answers there are of another job, which differs in {', '.join(other)} "
            f"({RECORD} has what it was); go on with the same, or name a new folder"
        )

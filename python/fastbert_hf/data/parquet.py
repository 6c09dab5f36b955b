"""Parquet files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastbert_hf.data.errors import DataFileError, Place
from fastbert_hf.data.lines import unreadable
from fastbert_hf.data.records import Choose, Records, Rows

PARQUET = (".parquet",)

_ROWS_AT_ONCE = 1024
_BROKEN = "check that the file is complete, or write it again"


def parquet_records(path: Path) -> Records:
    """The rows of a Parquet file. Only the chosen columns are read, and few rows are in memory at a time.

    Names of classes that `datasets` has left in the file's metadata are kept.

    Raises:
        DataFileError: missing or broken file, or pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise Place(str(path)).error("reading Parquet needs pyarrow", "pip install pyarrow") from error

    # A broken page may raise any of these.
    faults = (pyarrow.ArrowException, OSError, UnicodeDecodeError)

    def fault(error: Exception) -> DataFileError:
        if isinstance(error, OSError) and error.errno is not None:
            return unreadable(path, error)
        return Place(str(path)).error(f"not readable as Parquet ({error})", _BROKEN)

    def rows(choose: Choose) -> Rows:
        number = 0
        try:
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                chosen = choose(file.schema_arrow.names, Place(str(path)), "rename a column or say which one it is")
                for batch in file.iter_batches(_ROWS_AT_ONCE, columns=chosen):
                    # A batch has the columns in the order of the file.
                    columns = [batch.column(name).to_pylist() for name in chosen]
                    for values in zip(*columns, strict=True):
                        number += 1
                        yield Place(str(path), number, "row"), list(values)
        except faults as error:
            raise fault(error) from error

    try:
        schema = parquet.read_schema(path)
    except faults as error:
        raise fault(error) from error
    try:
        class_names = _class_names(schema.metadata)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        problem = f"the description of its columns by datasets is broken ({error})"
        raise Place(str(path)).error(problem, _BROKEN) from error
    return Records(Place(str(path)), rows, class_names=class_names)


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of the classes by column, from the description of the columns that `datasets` adds to a Parquet file."""
    description = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = description.get("info", {}).get("features") or {}
    names = {}
    for column, feature in features.items():
        feature = feature.get("feature", feature) if isinstance(feature, dict) else {}  # of a list: what is in it
        if feature.get("_type") == "ClassLabel":
            names[column] = feature["names"]
    return names

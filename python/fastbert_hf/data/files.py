"""Which reader a file belongs to; its ending says so."""

from __future__ import annotations

from pathlib import Path

from fastbert_hf.data.errors import Place
from fastbert_hf.data.json_lines import JSON_LINES, json_records
from fastbert_hf.data.lines import line_records
from fastbert_hf.data.parquet import PARQUET, parquet_records
from fastbert_hf.data.records import Records
from fastbert_hf.data.tables import TABLES, table_records

PLAIN = (".txt",)
LABELLED = (*TABLES, *JSON_LINES, *PARQUET)


def open_records(path: Path, *, plain: bool = False, form: str | None = None) -> Records:
    """The rows of `path`.

    Args:
        path: a file, or `STANDARD_INPUT`.
        plain: it may be a `.txt` file of one text per line.
        form: the ending that says what it is, as ".tsv"; `None`: that of `path`.

    Raises:
        DataFileError: unknown ending, or a Parquet file that cannot be opened.
    """
    form = path.suffix.lower() if form is None else form
    if form in TABLES:
        return table_records(path, form)
    if form in JSON_LINES:
        return json_records(path)
    if form in PARQUET:
        return parquet_records(path)
    if form in PLAIN and plain:
        return line_records(path)
    known = ", ".join((*PLAIN, *LABELLED) if plain else LABELLED)
    raise Place(str(path)).error(f"unknown ending {path.suffix!r}", f"name it one of {known}")

"""Files of texts to predict on, read row by row."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from fastbert_hf.data import DataFileError, read_lines, read_table, text_column_names
from fastbert_hf.text_windows import Text

PLAIN, TABLES, JSON_LINES = (".txt",), (".tsv", ".csv"), (".jsonl", ".ndjson")


def read_texts(path: Path, text_column: str | None, pair_column: str | None) -> Iterator[Text]:
    """Texts, or pairs of texts, of a UTF-8 file in order; in memory is one at a time.

    The ending says what it is: `.txt`, one text per line; `.tsv` (no quoting) or `.csv` with a header line;
    `.jsonl` or `.ndjson`, one JSON object per line. Blank lines are skipped, except in `.txt`.

    Args:
        path: the file.
        text_column: column (or key) of the text; `None`: `text`, or `text_a` and with it `text_b`.
        pair_column: column (or key) of the second text, if `text_column` is given.

    Raises:
        DataFileError: as soon as the reading gets there: a file, a line or a column that cannot be used, an empty text,
            or no texts at all.
    """
    rows: Iterator[tuple[int, tuple[str, ...]]]
    suffix = path.suffix.lower()
    if suffix in PLAIN:
        if text_column is not None:
            raise DataFileError.at(path, None, "a .txt file has no columns", "leave --text-column away")
        rows = ((line, (text,)) for line, text in enumerate(read_lines(path), start=1))
    elif suffix in TABLES:
        rows = _table_rows(path, text_column, pair_column)
    elif suffix in JSON_LINES:
        rows = _json_rows(path, text_column, pair_column)
    else:
        known = ", ".join((*PLAIN, *TABLES, *JSON_LINES))
        raise DataFileError.at(path, None, f"unknown ending {path.suffix!r}", f"name it one of {known}")

    line = None
    for line, row in rows:
        parts = [part.strip() for part in row]
        if not all(parts):
            raise DataFileError.at(path, line, "empty text", "fill it in or delete the line")
        yield parts[0] if len(parts) == 1 else (parts[0], parts[1])
    if line is None:
        raise DataFileError.at(path, None, "no texts", "add lines")


def _table_rows(path: Path, text_column: str | None, pair_column: str | None) -> Iterator[tuple[int, tuple[str, ...]]]:
    columns, rows = read_table(path)
    wanted = [None if name is None else name.strip().lower() for name in (text_column, pair_column)]
    chosen = [columns.index(name) for name in _choose(path, 1, columns, *wanted)]
    for line, row in rows:
        yield line, tuple(row[column] for column in chosen)


def _json_rows(path: Path, text_column: str | None, pair_column: str | None) -> Iterator[tuple[int, tuple[str, ...]]]:
    chosen: list[str] | None = None
    for line, content in enumerate(read_lines(path), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataFileError.at(path, line, f"not JSON ({error})", "write one JSON object per line") from error
        if not isinstance(record, dict):
            raise DataFileError.at(path, line, "not a JSON object", 'write one object per line: {"text": "..."}')
        if chosen is None:
            chosen = _choose(path, line, record, text_column, pair_column)
        yield line, tuple(_json_text(path, line, record, name) for name in chosen)


def _json_text(path: Path, line: int, record: dict[str, Any], name: str) -> str:
    text = record.get(name)
    if not isinstance(text, str):
        problem = f"{name} is missing" if name not in record else f"{name} is no string"
        raise DataFileError.at(path, line, problem, "every line needs it, as the first one")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataFileError.at(path, line, "half of a character (a lone \\u escape)", "delete or mend it") from error
    return text


def _choose(
    path: Path, line: int, columns: Collection[str], text_column: str | None, pair_column: str | None
) -> list[str]:
    """Names of the column of the text and, for pairs, of the second text."""
    if text_column is None:
        text_column, pair_column = text_column_names(columns)
        if text_column not in columns:
            there = ", ".join(columns) or "none"
            problem = f"no column text (or text_a and text_b) among: {there}"
            raise DataFileError.at(path, line, problem, "name the column of the texts with --text-column")
    chosen = [text_column] if pair_column is None else [text_column, pair_column]
    for name in chosen:
        if name not in columns:
            problem = f"no column {name} among: {', '.join(columns) or 'none'}"
            raise DataFileError.at(path, line, problem, "check --text-column and --pair-column")
    return chosen

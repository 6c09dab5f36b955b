"""JSON lines: one object per line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastbert_hf.data.errors import DataFileError, Place
from fastbert_hf.data.lines import read_lines
from fastbert_hf.data.records import Choose, Records, Rows

JSON_LINES = (".jsonl", ".ndjson")


def json_records(path: Path) -> Records:
    """The objects of a UTF-8 file, one per line."""

    def rows(choose: Choose) -> Rows:
        keys: set[str] | None = None
        chosen: list[str] = []
        for number, content in enumerate(read_lines(path), start=1):
            place = Place(str(path), number)
            if not content.strip():
                yield place, None
                continue
            try:
                record = parse_object(place, content)
                if record.keys() != keys:
                    chosen = choose(list(record), place, "every line needs it, under the same name")
                    keys = set(record)
            except DataFileError as error:
                yield place, error
            else:
                yield place, [record[name] for name in chosen]

    return Records(Place(str(path)), rows)


def parse_object(place: Place, content: str) -> dict[str, Any]:
    try:
        record = json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise place.error(f"not JSON ({error})", "write one JSON object per line") from error
    if not isinstance(record, dict):
        raise place.error("not a JSON object", 'write one object per line: {"text": "..."}')
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object, unless a key is there twice, of which `json` would keep the last without a word."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key appears twice")
    return record

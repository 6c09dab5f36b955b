"""Tables as text: `.tsv` (tabs, no quoting) and `.csv` (commas, the usual quoting), with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from fastbert_hf.data.errors import DataFileError, Place, listed
from fastbert_hf.data.lines import read_lines
from fastbert_hf.data.records import Choose, Records, Rows

TABLES = (".tsv", ".csv")


def table_records(path: Path, form: str) -> Records:
    """The rows of a table of the form `.tsv` or `.csv`."""
    separator = "tabs" if form == ".tsv" else "commas"

    def rows(choose: Choose) -> Rows:
        columns, lines = _open_table(path, form)
        _check_separator(path, form, columns)
        remedy = f"the first line must name the columns, separated by {separator}"
        chosen = [columns.index(name) for name in choose(columns, Place(str(path), 1), remedy)]
        for line, row in lines:
            place = Place(str(path), line)
            if isinstance(row, list) and _is_header(row, columns):
                rename = ", or name the column otherwise if it is a text" if len(columns) == 1 else ""
                yield place, place.error("the header again", f"delete the line; files that were joined have it{rename}")
            else:
                yield place, [row[column] for column in chosen] if isinstance(row, list) else row

    return Records(Place(str(path)), rows, joined_labels=True)


_Line = list[str] | DataFileError | None  # fields; a line that cannot be used; a blank line


def _open_table(path: Path, form: str) -> tuple[list[str], Iterator[tuple[int, _Line]]]:
    """Return the column names in lower case, and the lines behind the header."""
    lines = _tsv_rows(path) if form == ".tsv" else _csv_rows(path)
    header = next((row for _, row in lines if row is not None), [])
    if isinstance(header, DataFileError):
        raise header
    columns = [name.strip().lower() for name in header]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        problem = f"column {listed(name or '(no name)' for name in repeated)} appears twice in the header"
        raise Place(str(path), 1).error(problem, "give each its own name")

    def checked() -> Iterator[tuple[int, _Line]]:
        for line, row in lines:
            if isinstance(row, list) and len(row) != len(columns):
                problem = f"{len(row)} fields, but the header has {len(columns)}"
                yield line, Place(str(path), line).error(problem, "make them equal; no stray separators")
            else:
                yield line, row

    return columns, checked()


def _is_header(row: list[str], columns: list[str]) -> bool:
    return all(value.strip().lower() == name for value, name in zip(row, columns, strict=True))


def _check_separator(path: Path, form: str, columns: list[str]) -> None:
    """Raise `DataFileError` for a header that is one name only, of several with another separator between them."""
    wanted = "\t" if form == ".tsv" else ","
    others = {"\t": "tabs", ",": "commas", ";": "semicolons"}
    for separator, name in others.items():
        if len(columns) == 1 and separator != wanted and separator in columns[0]:
            remedy = {"\t": "name the file .tsv", ",": "name the file .csv"}.get(
                separator, f"write it with {others[wanted]} (spreadsheets ask for the separator when they save)"
            )
            problem = f"the header has {name} between the names, and {form} has {others[wanted]}"
            raise Place(str(path), 1).error(problem, remedy)


def _tsv_rows(path: Path) -> Iterator[tuple[int, _Line]]:
    for line, content in enumerate(read_lines(path), start=1):
        # A line of tabs is not blank: its fields are there, and empty.
        blank = not content.strip() and "\t" not in content
        yield line, None if blank else content.rstrip("\r\n").split("\t")


def _csv_rows(path: Path) -> Iterator[tuple[int, _Line]]:
    # strict: without it, a quotation mark that is never closed swallows the rest of the file.
    reader = csv.reader(read_lines(path), strict=True)
    while True:
        line = reader.line_num + 1  # where the row starts; a quoted field may span lines
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            remedy = "close and double the quotation marks of quoted fields, and keep every sample on its line"
            if "field limit" in str(error):
                remedy += "; longer texts go into .tsv or .jsonl"
            yield line, Place(str(path), line).error(f"broken line ({error})", remedy)
            return  # where the next row begins is not known
        blank = not row or (len(row) == 1 and not row[0].strip())
        yield line, None if blank else row

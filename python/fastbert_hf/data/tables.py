"""Tables as text: `.tsv` (tabs, no quoting) and `.csv` (commas, the usual quoting), with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from fastbert_hf.data.errors import Place, listed
from fastbert_hf.data.lines import read_lines
from fastbert_hf.data.records import Choose, Records, Rows

TABLES = (".tsv", ".csv")


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Open a `.tsv` or `.csv` file with a header line.

    `.tsv` means tabs and no quoting, so that a lone quotation mark is an ordinary character; `.csv` means commas and
    the usual quoting.

    Returns:
        The column names in lower case, and an iterator that reads one row at a time: line number and fields of every
        line that is not blank.

    Raises:
        DataFileError: unknown ending, missing file, wrong encoding, a column name twice, or (while rows are read) a
            broken line or one with another number of fields than the header has.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise Place(str(path)).error(f"unknown ending {path.suffix!r}", "name it .tsv (tabs) or .csv (commas)")
    rows = _tsv_rows(path) if suffix == ".tsv" else _csv_rows(path)
    _, header = next(rows, (1, []))
    columns = [name.strip().lower() for name in header]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        problem = f"column {listed(name or '(no name)' for name in repeated)} appears twice in the header"
        raise Place(str(path), 1).error(problem, "give each its own name")

    def checked() -> Iterator[tuple[int, list[str]]]:
        for line, row in rows:
            if len(row) != len(columns):
                problem = f"{len(row)} fields, but the header has {len(columns)}"
                raise Place(str(path), line).error(problem, "make them equal; no stray separators")
            yield line, row

    return columns, checked()


def table_records(path: Path) -> Records:
    """The rows of `read_table`."""
    separator = "tabs" if path.suffix.lower() == ".tsv" else "commas"

    def rows(choose: Choose) -> Rows:
        columns, lines = read_table(path)
        remedy = f"the first line must name the columns, separated by {separator}"
        chosen = [columns.index(name) for name in choose(columns, Place(str(path), 1), remedy)]
        for line, row in lines:
            yield Place(str(path), line), [row[column] for column in chosen]

    return Records(Place(str(path)), rows, joined_labels=True)


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    width = 0  # unknown before the header; in a table of one column a blank line is an empty field
    for line, content in enumerate(read_lines(path), start=1):
        # A line of tabs is not blank: its fields are there, and empty.
        if content.strip() or "\t" in content or width == 1:
            row = content.rstrip("\r\n").split("\t")
            width = width or len(row)
            yield line, row


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    # strict: without it, a quotation mark that is never closed swallows the rest of the file.
    reader = csv.reader(read_lines(path), strict=True)
    width = 0  # as above
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
            raise Place(str(path), line).error(f"broken line ({error})", remedy) from error
        if width == 1 and not row:
            row = [""]
        if width == 1 or (row and not (len(row) == 1 and row[0].isspace())):
            width = width or len(row)
            yield line, row

"""Lines of text files."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from fastbert_hf.data.errors import DataFileError, Place
from fastbert_hf.data.records import Choose, Records, Rows

STANDARD_INPUT = Path("-")  # in place of a file


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file one at a time, with their line ends, whichever they are.

    Raises:
        DataFileError: missing file or wrong encoding.
    """
    try:
        with nullcontext(sys.stdin.buffer) if path == STANDARD_INPUT else path.open("rb") as file:
            for number, content in enumerate(file, start=1):
                place = Place(str(path), number)
                try:
                    text = content.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise place.error("not UTF-8 text", "save the file as UTF-8") from error
                if "\0" in text:
                    raise place.error("holds NUL characters (UTF-16 or binary?)", "save the file as UTF-8")
                yield from io.StringIO(text, newline="")  # parts it at a lone carriage return too
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataFileError:
    """The error for a file that cannot be opened."""
    reason = str(error) if error.errno is None else os.strerror(error.errno)
    return Place(str(path)).error(f"cannot be read ({reason})", "check the path")


def line_records(path: Path) -> Records:
    """Every line as one text, in a column `text`."""

    def rows(choose: Choose) -> Rows:
        choose(["text"], Place(str(path)), "")
        for number, content in enumerate(read_lines(path), start=1):
            yield Place(str(path), number), [content] if content.strip() else None

    return Records(Place(str(path)), rows)

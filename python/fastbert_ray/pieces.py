"""Files cut into pieces, each of which one worker reads alone: row groups of Parquet, bytes of JSON lines."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from fastbert_hf.data import DataFileError, Text
from fastbert_hf.data.errors import Place
from fastbert_hf.data.json_lines import JSON_LINES, parse_object
from fastbert_hf.data.parquet import PARQUET


@dataclass(frozen=True)
class Columns:
    """Which columns (or JSON keys) are read: the text, the second text of a pair or `None`, those to copy."""

    text: str
    pair: str | None
    keep: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Return all of them."""
        return [self.text, *([] if self.pair is None else [self.pair]), *self.keep]


@dataclass(frozen=True)
class Piece:
    """A part of a file.

    Attributes:
        number: among the pieces of all files, in their order.
        path: of the file.
        size: of the file in bytes, when it was planned, and so the next.
        modified: nanoseconds.
        first: of the row groups, or of the bytes in which lines of the piece begin.
        end: behind the last of them.
    """

    number: int
    path: str
    size: int
    modified: int
    first: int
    end: int


@dataclass(frozen=True)
class Rows:
    """The rows of a piece.

    Attributes:
        texts: of each; `None` where it is empty.
        kept: the columns to copy: a table of Parquet, or a list of objects.
    """

    texts: list[Text | None]
    kept: pyarrow.Table | list[dict[str, Any]]


def files_of(inputs: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the files that are named, and those in the folders that are named, in order.

    Raises:
        ValueError: none, one twice, or files of both forms or of another.
    """
    files: list[Path] = []
    for name in inputs:
        path = Path(os.path.abspath(name))
        found = sorted(p for p in path.iterdir() if p.suffix in PARQUET + JSON_LINES) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path}: neither a .parquet nor a .jsonl file in this folder")
        files += found
    if len(set(files)) < len(files):
        raise ValueError("a file is there twice among the inputs, and its rows would be answered twice")
    forms = {"parquet" if path.suffix in PARQUET else path.suffix in JSON_LINES for path in files}
    if forms not in ({"parquet"}, {True}):
        raise ValueError("inputs must be .parquet files, or .jsonl files, and not both: the outputs have their form")
    return files


def plan(files: Sequence[Path], columns: Columns, piece_bytes: int) -> list[Piece]:
    """Cut files into pieces of about `piece_bytes`. Of Parquet only the ends of the files are read, and a row group,
    which is never cut, counts with its uncompressed bytes.

    Raises:
        ValueError: a file that cannot be read, or one of Parquet without the columns, with a text that is no string, or
            with other types of the columns to copy than the files before.
    """
    pieces: list[Piece] = []
    kept: pyarrow.Schema | None = None
    for path in files:
        try:
            state = path.stat()
            if path.suffix in PARQUET:
                with parquet.ParquetFile(path) as file:
                    schema = _checked(file.schema_arrow, columns, path)
                    sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
                if kept is not None and schema != kept:
                    raise Place(str(path)).error("other types of the columns to copy", "write them with one type")
                kept, bounds = schema, _bounds(sizes, piece_bytes)
            else:
                bounds = [*range(0, state.st_size, piece_bytes), state.st_size]
        except (OSError, pyarrow.ArrowException) as error:
            raise Place(str(path)).error(f"cannot be read ({error})", "check the path and the file") from error
        for first, end in itertools.pairwise(bounds):
            pieces.append(Piece(len(pieces), str(path), state.st_size, state.st_mtime_ns, first, end))
    return pieces


def _bounds(sizes: Sequence[int], piece_bytes: int) -> list[int]:
    """Return where runs of row groups begin, each of at least so many bytes, and the end."""
    bounds, so_far = [0], 0
    for number, size in enumerate(sizes, start=1):
        so_far += size
        if so_far >= piece_bytes or number == len(sizes):
            bounds.append(number)
            so_far = 0
    return bounds


def _checked(schema: pyarrow.Schema, columns: Columns, path: Path) -> pyarrow.Schema:
    """Return the schema of the columns to copy."""
    place = Place(str(path))
    for name in columns.names:
        if schema.names.count(name) != 1:
            raise place.error(f"{schema.names.count(name)} columns {name}", "name columns that are there once")
    for name in columns.names[: len(columns.names) - len(columns.keep)]:
        kind = schema.field(name).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise place.error(f"column {name} is {kind}", "a text is a string")
    return pyarrow.schema([schema.field(name) for name in columns.keep])


def read(piece: Piece, columns: Columns) -> Rows:
    """Read a piece.

    Raises:
        ValueError: the file is another than when it was planned, or a line of it cannot be used.
    """
    path = Path(piece.path)
    _check_same(path, piece)
    rows = _of_parquet(path, piece, columns) if path.suffix in PARQUET else _of_json_lines(path, piece, columns)
    _check_same(path, piece)
    return rows


def _check_same(path: Path, piece: Piece) -> None:
    state = path.stat()
    if (state.st_size, state.st_mtime_ns) != (piece.size, piece.modified):
        raise Place(str(path)).error("was changed while the job ran", "begin again, into another folder")


def _of_parquet(path: Path, piece: Piece, columns: Columns) -> Rows:
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read_row_groups(list(range(piece.first, piece.end)), columns=list(dict.fromkeys(columns.names)))
    texts = table.column(columns.text).to_pylist()
    pairs = None if columns.pair is None else table.column(columns.pair).to_pylist()
    return Rows(_texts(texts, pairs), table.select(list(columns.keep)))


def _texts(texts: Sequence[str | None], pairs: Sequence[str | None] | None) -> list[Text | None]:
    if pairs is None:
        return [text if text and text.strip() else None for text in texts]
    both = zip(texts, pairs, strict=True)
    return [(text, pair) if text and text.strip() and pair and pair.strip() else None for text, pair in both]


def _of_json_lines(path: Path, piece: Piece, columns: Columns) -> Rows:
    texts: list[str | None] = []
    pairs: list[str | None] | None = None if columns.pair is None else []
    kept: list[dict[str, Any]] = []
    for begin, line in _lines(path, piece):
        try:
            content = line.decode("utf-8" if begin else "utf-8-sig")
            if not content.strip():
                continue
            record = parse_object(Place(str(path)), content)
            missing = [name for name in columns.names if name not in record]
            if missing:
                raise Place(str(path)).error(f"no key {', '.join(missing)}", "every line needs it")
            texts.append(_text_of(record, columns.text, path))
            if pairs is not None and columns.pair is not None:
                pairs.append(_text_of(record, columns.pair, path))
            kept.append({name: record[name] for name in columns.keep})
        except (DataFileError, UnicodeDecodeError) as error:
            raise DataFileError(f"line {_number_of(path, begin)}: {error}") from error
    return Rows(_texts(texts, pairs), kept)


def _lines(path: Path, piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that begin in the piece, each with the place of its first byte."""
    with path.open("rb") as file:
        if piece.first:
            file.seek(piece.first - 1)
            file.readline()  # the end of the line of the piece before, if only its line break
        begin = file.tell()
        while begin < piece.end and (line := file.readline()):
            yield begin, line
            begin += len(line)


def _number_of(path: Path, begin: int) -> int:
    """Return the number, from 1, of the line that begins at a byte; asked for only to tell of an error."""
    with path.open("rb") as file:
        return 1 + sum(block.count(b"\n") for block in iter(lambda: file.read(min(1 << 20, begin - file.tell())), b""))


def _text_of(record: dict[str, Any], name: str, path: Path) -> str | None:
    value = record[name]
    if not isinstance(value, str | None):
        raise Place(str(path)).error(f"{name} is no string", "a text is a string, or null where there is none")
    return value

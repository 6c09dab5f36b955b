"""Text classification data: files in, tokenised batches out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase


class DataFileError(ValueError):
    """A data file that cannot be used; the message is one line with the file, the line and the remedy."""

    @classmethod
    def at(cls, path: Path, line: int | None, problem: str, remedy: str) -> DataFileError:
        """The error for a line of a file, or for the file as a whole."""
        where = f"{path}, line {line}" if line is not None else str(path)
        return cls(f"{where}: {problem}; {remedy}")


@dataclass(frozen=True)
class ClassificationData:
    """Labelled texts.

    Attributes:
        texts: first (or only) text of every sample.
        pairs: second text of every sample, or `None` for single texts.
        label_ids: class of every sample, an index into `label_names`.
        label_names: name of every class.
    """

    texts: list[str]
    pairs: list[str] | None
    label_ids: list[int]
    label_names: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by id, as `FastBertConfig` takes them."""
        return dict(enumerate(self.label_names))


def read_classification_file(path: str | Path, label_names: Sequence[str] | None = None) -> ClassificationData:
    """Read a UTF-8 file with a header line and the columns `label` and `text` (or `text_a` and `text_b`).

    A name ending in `.tsv` means tabs and no quoting, so that a lone quotation mark is an ordinary character;
    `.csv` means commas and the usual quoting. Other columns are ignored, and so are blank lines. `text_a` without
    `text_b` is read as a single text.

    Args:
        path: the file.
        label_names: classes in the order of their ids, for a second file (dev, test) of the same task. `None` takes
            the classes from the file: sorted, as numbers when every label is an integer.

    Raises:
        DataFileError: missing file, unknown ending, wrong encoding, missing column, broken line, empty text or label,
            a label not in `label_names`, no samples, or (without `label_names`) a single class.
    """
    path = Path(path)
    columns, rows = read_table(path)
    label_column, text_column, pair_column = _find_columns(path, columns)

    texts: list[str] = []
    pairs: list[str] = []
    labels: list[str] = []
    for line, row in rows:
        texts.append(_field(path, line, row, text_column, columns))
        labels.append(_field(path, line, row, label_column, columns))
        if pair_column is not None:
            pairs.append(_field(path, line, row, pair_column, columns))
        if label_names is not None and labels[-1] not in label_names:
            known = ", ".join(label_names)
            raise DataFileError.at(
                path, line, f"unknown label {labels[-1]!r}", f"use one of the training labels ({known})"
            )
    if not texts:
        raise DataFileError.at(path, None, "no samples after the header", "add lines")

    if label_names is None:
        label_names = _sort_labels(set(labels))
        if len(label_names) < 2:
            raise DataFileError.at(
                path, None, f"only one class, {labels[0]!r}", "a classifier needs samples of two or more"
            )
    ids = {name: index for index, name in enumerate(label_names)}
    return ClassificationData(
        texts=texts,
        pairs=pairs if pair_column is not None else None,
        label_ids=[ids[label] for label in labels],
        label_names=list(label_names),
    )


class TokenisedDataset(Dataset[dict[str, Any]]):
    """`ClassificationData` tokenised once, cut off at `max_length` tokens and not padded.

    An item is a dict of lists `input_ids`, `attention_mask` and, for pairs and where the tokenizer makes them
    anyway, `token_type_ids` (0 for the first text and 1 for the second), with the class id under `labels`.

    Args:
        data: the texts.
        tokenizer: a Transformers tokenizer.
        max_length: longest sample in tokens, with special tokens; of a pair the longer text is cut first.
    """

    def __init__(self, data: ClassificationData, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.label_ids = data.label_ids
        self.collate = DataCollatorWithPadding(tokenizer)  # pads a list of items to its longest, as int64 tensors
        self._encoded: dict[str, list[list[int]]] = {}
        if len(data):
            # None: as the tokenizer thinks best. Pairs cannot be told apart without segment ids.
            segments = None if data.pairs is None else True
            encoded = tokenizer(
                data.texts, data.pairs, truncation=True, max_length=max_length, return_token_type_ids=segments
            )
            self._encoded = dict(encoded)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of every sample."""
        return [len(ids) for ids in self._encoded.get("input_ids", [])]

    def __len__(self) -> int:
        return len(self.label_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {name: values[index] for name, values in self._encoded.items()}
        return item | {"labels": self.label_ids[index]}

    def batches(self, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        """Padded batches in order, the last one possibly smaller."""
        for start in range(0, len(self), batch_size):
            yield self.collate([self[index] for index in range(start, min(start + batch_size, len(self)))])


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file one at a time, with their line ends, whichever they are.

    Raises:
        DataFileError: missing file or wrong encoding.
    """
    try:
        with path.open("rb") as file:
            for number, content in enumerate(file, start=1):
                try:
                    text = content.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataFileError.at(path, number, "not UTF-8 text", "save the file as UTF-8") from error
                if "\0" in text:
                    problem = "holds NUL characters (UTF-16 or binary?)"
                    raise DataFileError.at(path, number, problem, "save the file as UTF-8")
                yield from io.StringIO(text, newline="")  # parts it at a lone carriage return too
    except OSError as error:
        raise DataFileError.at(path, None, f"cannot be read ({error.strerror})", "check the path") from error


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Open a `.tsv` or `.csv` file with a header line, as `read_classification_file` describes them.

    Returns:
        The column names in lower case, and an iterator that reads one row at a time: line number and fields of every
        line that is not blank.

    Raises:
        DataFileError: unknown ending, missing file, wrong encoding, a column name twice, or (while rows are read) a
            broken line or one with another number of fields than the header has.
    """
    rows = _read_rows(path)
    _, header = next(rows, (1, []))
    columns = [name.strip().lower() for name in header]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        problem = f"column {', '.join(repeated)} appears twice in the header"
        raise DataFileError.at(path, 1, problem, "give each its own name")

    def checked() -> Iterator[tuple[int, list[str]]]:
        for line, row in rows:
            if len(row) != len(columns):
                problem = f"{len(row)} fields, but the header has {len(columns)}"
                raise DataFileError.at(path, line, problem, "make them equal; no stray separators")
            yield line, row

    return columns, checked()


def text_column_names(columns: Collection[str]) -> tuple[str, str | None]:
    """The columns of the text and of the second text, if any: `text`, or `text_a` and `text_b`."""
    if "text" in columns:
        return "text", None
    return "text_a", "text_b" if "text_b" in columns else None


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every line that is not blank; the first one is the header."""
    formats: dict[str, dict[str, Any]] = {
        ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
        # strict: without it, a quotation mark that is never closed swallows the rest of the file.
        ".csv": {"delimiter": ",", "strict": True},
    }
    if path.suffix.lower() not in formats:
        raise DataFileError.at(path, None, f"unknown ending {path.suffix!r}", "name it .tsv (tabs) or .csv (commas)")
    reader = csv.reader(read_lines(path), **formats[path.suffix.lower()])
    while True:
        line = reader.line_num + 1  # where the row starts; a quoted field may span lines
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            remedy = "close and double the quotation marks of quoted fields, and keep every sample on its line"
            raise DataFileError.at(path, line, f"broken line ({error})", remedy) from error
        if any(field.strip() for field in row):
            yield line, row


def _find_columns(path: Path, columns: list[str]) -> tuple[int, int, int | None]:
    """Column numbers of the label, the text and the second text, if any."""
    text_name, pair_name = text_column_names(columns)
    for name in ("label", text_name):
        if name not in columns:
            wanted = "label" if name == "label" else "text (or text_a and text_b)"
            separator = "tabs" if path.suffix.lower() == ".tsv" else "commas"
            raise DataFileError.at(
                path, 1, f"no column {wanted}", f"the first line must name the columns, separated by {separator}"
            )
    pair_column = None if pair_name is None else columns.index(pair_name)
    return columns.index("label"), columns.index(text_name), pair_column


def _field(path: Path, line: int, row: list[str], column: int, columns: list[str]) -> str:
    value = row[column].strip()
    if not value:
        raise DataFileError.at(path, line, f"empty {columns[column]}", "fill it in or delete the line")
    return value


def _sort_labels(labels: set[str]) -> list[str]:
    if all(re.fullmatch(r"[+-]?[0-9]+", label) for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)

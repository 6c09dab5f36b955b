"""What `predict` is given: its texts, and what is looked at before the libraries of the work are imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from fastbert_cli import inputs
from fastbert_cli.errors import CommandError
from fastbert_cli.predict.command import Predict
from fastbert_hf.data import (
    FIRST_ROWS,
    JSON_LINES,
    STANDARD_INPUT,
    BadRows,
    DataFileError,
    EmptyTextError,
    Text,
    read_text_rows,
)
from fastbert_hf.data.files import LABELLED, PLAIN
from fastbert_hf.data.parquet import PARQUET
from fastbert_hf.data.tables import TABLES

OUTPUTS = (*TABLES, *JSON_LINES, *PARQUET)


@dataclass(frozen=True)
class InputRow:
    """A row of the input that has one in the output.

    Attributes:
        text: `None`: an empty one, whose row has no values.
        kept: values that are copied: name of the file, where there are several, and of the columns to keep.
    """

    text: Text | None
    kept: list[Any]


def look(options: Predict) -> None:
    """Raise for options that contradict each other, files, and a folder that cannot be used.

    Raises:
        CommandError: all but what is wrong in the files.
        DataFileError: the first rows of a file cannot be used.
    """
    _check_paths(options)
    if options.audit is not None and not 0 < options.audit <= 1:
        raise CommandError(f"--audit {options.audit:g}: a share of the texts, above 0 and at most 1; 1 % is 0.01")
    inputs.check_patching(options.patching)
    if not reads_standard_input(options):
        files = files_of(options)
        for file in files:
            texts = Texts(options, [file])
            for _ in islice(texts.rows(), FIRST_ROWS):
                pass
            if texts.faults.number:  # the report has all there are
                whole = Texts(options, files)
                for _ in whole.rows():
                    pass
                whole.check()
    classes = inputs.look_at_model(options.model)
    inputs.check_speeds(classes, [] if options.speed is None else [options.speed])
    if classes is not None and classes.gives_scores and options.probabilities:
        raise CommandError(f"{options.model}: has one output, a score, and no probabilities; leave --probabilities out")


def reads_standard_input(options: Predict) -> bool:
    """Return True if the texts come from standard input, which can be read once only."""
    return STANDARD_INPUT in options.files


def files_of(options: Predict) -> list[Path]:
    """Return the files, in the order given; those of a folder by their names.

    Raises:
        CommandError: a folder without files of texts.
    """
    files: list[Path] = []
    for path in options.files:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in (*PLAIN, *LABELLED))
            if not found:
                raise CommandError(f"{path}: no file of texts in this folder ({', '.join((*PLAIN, *LABELLED))})")
            files += found
        else:
            files.append(path)
    return files


@dataclass
class Texts:
    """The rows of files, and what cannot be used in them.

    Attributes:
        files: to read, one after the other.
        faults: of the rows read so far.
        empty: number of empty texts so far that have a row, or are left out.
    """

    options: Predict
    files: list[Path]
    faults: BadRows = field(default_factory=BadRows)
    empty: int = 0

    @property
    def columns(self) -> list[str]:
        """Names of what is copied into the output."""
        ours = ("file", "label", "probability", "score", "uncertainty", "exit_layer", "probabilities")
        kept = [f"input_{name}" if name in ours else name for name in self.options.keep]
        return ["file", *kept] if self._several else kept

    @property
    def _several(self) -> bool:
        return len(self.options.files) > 1 or self.options.files[0].is_dir()

    def rows(self) -> Iterator[InputRow]:
        """Yield the rows that have one in the output."""
        options = self.options
        columns = (options.text_column, options.pair_column)
        for file in self.files:
            form = f".{options.input_format or 'txt'}" if file == STANDARD_INPUT else None
            names = [str(file)] if self._several else []
            try:
                for row in read_text_rows(file, *columns, keep=options.keep, form=form, bad_row=self._bad_row):
                    if row.text is not None or options.on_empty == "mark":
                        yield InputRow(row.text, names + row.kept)
            except DataFileError as fault:  # behind which nothing of this file can be read
                if STANDARD_INPUT in self.files:
                    raise
                self.faults.add(fault)

    def check(self) -> None:
        """Raise what is wrong with the rows read so far, all of it at once."""
        how = "mark empty texts in the output with --on-empty mark, or leave them out with --on-empty skip"
        self.faults.check(how if self.faults.has_empty_texts else "")

    def _bad_row(self, fault: DataFileError) -> None:
        if isinstance(fault, EmptyTextError) and self.options.on_empty != "refuse":
            self.empty += 1
            return
        self.faults.add(fault)
        if STANDARD_INPUT in self.files:  # of which nothing was looked at before
            self.check()


def _check_paths(options: Predict) -> None:
    if options.pair_column is not None and isinstance(options.stride, int):
        raise CommandError("--stride is for single texts, not for pairs; leave it or --pair-column out")
    if reads_standard_input(options) and len(options.files) > 1:
        raise CommandError("- (standard input) stands alone; give files, or it")
    if options.input_format is not None and not reads_standard_input(options):
        raise CommandError("--input-format is for standard input (-); the ending of a file says what it is")
    for name in options.keep:
        if options.keep.count(name) > 1:
            raise CommandError(f"--keep {name} is given twice; once is enough")
    out = options.out
    if out is None:
        return
    if out.suffix.lower() not in OUTPUTS:
        raise CommandError(f"--out {out}: unknown ending; name it {', '.join(OUTPUTS)}")
    if out.exists() and not out.is_file():
        raise CommandError(f"--out {out}: not a file that can be replaced; choose another name")
    inputs.check_files_to_write({"--out": out}, (*files_of(options), options.model))
    if reads_standard_input(options) and _is_standard_input(out):
        raise CommandError(f"--out {out}: that is what is read here, from standard input; choose another name")


def _is_standard_input(file: Path) -> bool:
    """Return True for a file that the shell has opened as standard input."""
    try:
        return os.path.samestat(os.fstat(0), file.stat())
    except OSError:  # no such file, or no standard input
        return False

"""What `predict` is given: its texts, and what is looked at before the libraries of the work are imported."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from fastbert_cli import inputs
from fastbert_cli.errors import CommandError
from fastbert_cli.predict.command import Predict
from fastbert_hf.data import FIRST_ROWS, JSON_LINES, EmptyTextError, Text, read_texts, read_texts_with_gaps
from fastbert_hf.data.tables import TABLES


def look(options: Predict) -> None:
    """Raise for options that contradict each other, files, and a folder that cannot be used.

    Raises:
        CommandError: all but what is wrong in the file.
        DataFileError: the first rows of the file cannot be used.
    """
    _check_paths(options)
    _check_speed(options)
    inputs.check_patching(options.patching)
    for _ in islice(texts_of(options), FIRST_ROWS):
        pass
    inputs.look_at_model(options.model)


def texts_of(options: Predict) -> Iterator[Text | None]:
    """Yield the texts of the file; `None` for an empty one that is to be marked.

    Raises:
        CommandError: an empty text that is not to be marked.
        DataFileError: the file cannot be used.
    """
    read = read_texts_with_gaps if options.on_empty == "mark" else read_texts
    try:
        yield from read(options.file, options.text_column, options.pair_column)
    except EmptyTextError as error:
        raise CommandError(f"{error}, or mark it in the output with --on-empty mark") from error


def _check_speed(options: Predict) -> None:
    given = [
        name
        for name, is_given in (
            ("--speed", options.speed is not None),
            ("--speedup", options.speedup is not None),
            ("--full-depth", options.full_depth),
        )
        if is_given
    ]
    if len(given) > 1:
        raise CommandError(f"{' and '.join(given)} contradict each other; give one")


def _check_paths(options: Predict) -> None:
    if options.pair_column is not None and isinstance(options.stride, int):
        raise CommandError("--stride is for single texts, not for pairs; leave it or --pair-column out")
    if options.pair_column is not None and options.text_column is None:
        raise CommandError("--pair-column goes with --text-column: one names the first text, the other the second")
    out = options.out
    if out is None:
        return
    if out.suffix.lower() not in (*TABLES, *JSON_LINES):
        raise CommandError(f"--out {out}: unknown ending; name it {', '.join((*TABLES, *JSON_LINES))}")
    if not out.parent.is_dir():
        raise CommandError(f"--out {out}: no such folder; make it first")
    if out.exists() and not out.is_file():
        raise CommandError(f"--out {out}: not a file that can be replaced; choose another name")
    if out.exists() and options.file.exists() and out.samefile(options.file):
        raise CommandError(f"--out {out}: that is the file of the texts; choose another name")

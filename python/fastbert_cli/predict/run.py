"""`fastbert predict`: a saved model over a file of texts, row by row."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import transformers
from transformers import PreTrainedTokenizerBase

from fastbert_cli.errors import CommandError
from fastbert_cli.models import label_names_of, load_model, place_and_patch, precision_of
from fastbert_cli.predict.command import Predict
from fastbert_cli.predict.inputs import texts_of
from fastbert_cli.setting_in_words import describe_objective
from fastbert_cli.texts import note_cut_off
from fastbert_hf.data import JSON_LINES
from fastbert_hf.data.labels import SEPARATOR, join_labels
from fastbert_hf.files import OutputInUseError, file_written_atomically
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.prediction import Predictions, iter_predict, resolve_max_length, resolve_stride

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets take what begins with one for a formula
COLUMNS = ("label", "probability", "uncertainty", "exit_layer")


class Row(NamedTuple):
    """What is written of a text; `every` has the probabilities of all classes that were asked for."""

    label: str
    probability: float | list[float]
    uncertainty: float
    exit_layer: int
    every: list[float]


Write = Callable[[Row | None], None]  # `None`: a row of its own for an empty text


def run_predict(options: Predict) -> None:
    """Writes a row for every text of `options.file` and reports on stderr.

    Raises:
        CommandError: options that contradict each other, or a model that cannot be used.
        DataFileError: the file cannot be used.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # All of the file is looked at before the model is, so that a bad last line does not cost the work before it.
    total, empty = _look_at_all(options)
    model, tokenizer = load_model(options.model)
    place_and_patch(model, options.patching)

    begin = time.perf_counter()
    counts = _Counts()
    classes = label_names_of(model) if options.probabilities else []
    try:
        answers = iter_predict(
            model,
            tokenizer,
            (text for text in texts_of(options) if text is not None),
            speed=0.0 if options.full_depth else options.speed,
            speedup=options.speedup,
            max_tokens=options.max_tokens,
            max_length=options.max_length,
            stride=options.stride,
            progress=options.progress,
            total=total - len(empty),
        )
        with closing(answers), _output(options.out, options.safe_tables, classes) as write:
            rows = _rows(answers, len(classes), counts)
            for position in range(total):
                write(None if position in empty else next(rows))
    except ValueError as error:
        raise CommandError(str(error)) from error
    seconds = time.perf_counter() - begin
    note_cut_off(counts.truncated, resolve_max_length(model, tokenizer, options.max_length))
    if empty:
        print(f"{len(empty):,} of {total:,} texts are empty; their rows have no values", file=sys.stderr)
    print(
        f"{counts.texts:,} texts in {seconds:.1f} s ({counts.texts / seconds:,.0f} texts/s), "
        f"mean exit layer {counts.layers / max(counts.texts, 1):.2f} of {model.config.num_hidden_layers}; "
        + _what_was_used(options, model, tokenizer)
        + ("" if options.out is None else f"; written: {options.out}"),
        file=sys.stderr,
    )


def _look_at_all(options: Predict) -> tuple[int, set[int]]:
    """Return how many texts there are, and the positions of the empty ones."""
    total, empty = 0, set()
    for text in texts_of(options):
        if text is None:
            empty.add(total)
        total += 1
    return total, empty


def _what_was_used(
    options: Predict, model: FastBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase
) -> str:
    setting = model.calibrated_setting
    if options.speedup is not None:
        assert setting is not None
        return f"speed-up {options.speedup:g} (Speed {setting.speed_for_speedup(options.speedup):.4g})"
    if options.full_depth or (options.speed is None and setting is None):
        return "full depth" + ("" if options.full_depth else " (not calibrated)")
    if options.speed is not None:
        return f"Speed {options.speed:g}"
    assert setting is not None
    target = describe_objective(setting.objective)
    if setting.evidence.guarantee is not None:
        chosen_in, runs_in = setting.precision or str(model.dtype).removeprefix("torch."), precision_of(model)
        if chosen_in != runs_in:
            target += f"; guaranteed in {chosen_in}, not in {runs_in}"
        max_length = resolve_max_length(model, tokenizer, options.max_length)
        if resolve_stride(model, tokenizer, max_length, options.stride) is not None:
            target += "; guaranteed for texts that are cut off, not with --stride"
        if setting.max_length not in (None, max_length):
            target += f"; guaranteed with --max-length {setting.max_length}"
    return f"calibrated setting ({target})"


@contextmanager
def _output(out: Path | None, safe: bool | None = None, classes: Sequence[str] = ()) -> Iterator[Write]:
    """A function that writes a row, to stdout or to a file that appears when all is done.

    Args:
        out: the file; its ending says in which form.
        safe: labels that look like a formula are marked as text; `None`: in `.csv`.
        classes: names of all classes, to write the probabilities of all.
    """
    if out is None:
        yield _table_writer(_tsv_writer(sys.stdout), bool(safe), classes)
        return
    try:
        with file_written_atomically(out) as file:
            suffix = out.suffix.lower()
            if suffix in JSON_LINES:
                yield _json_writer(file, classes)
            elif suffix == ".csv":
                yield _table_writer(csv.writer(file, lineterminator="\n").writerow, safe is not False, classes)
            else:
                yield _table_writer(_tsv_writer(file), bool(safe), classes)
    except OutputInUseError as error:
        raise CommandError(f"--out {out}: {error}") from error
    except OSError as error:
        raise CommandError(f"--out {out}: cannot be written ({error.strerror})") from error


def _tsv_writer(file: TextIO) -> Callable[[Sequence[str]], Any]:
    # A table has no quoting: a tab or a line break in a name would make another column or row.
    return lambda cells: file.write("\t".join(" ".join(cell.split()) for cell in cells) + "\n")


def _table_writer(write_row: Callable[[Sequence[str]], Any], safe: bool, classes: Sequence[str]) -> Write:
    header = [*COLUMNS, *(f"probability of {name}" for name in classes)]
    write_row(header)

    def write(row: Row | None) -> None:
        if row is None:
            write_row([""] * len(header))
            return
        shown = row.probability if isinstance(row.probability, list) else [row.probability]
        cells = (
            f"'{row.label}" if safe and row.label.startswith(_FORMULA) else row.label,
            SEPARATOR.join(f"{x:.6f}" for x in shown),
            f"{row.uncertainty:.6f}",
            str(row.exit_layer),
            *(f"{x:.6f}" for x in row.every),
        )
        write_row(cells)

    return write


def _json_writer(file: TextIO, classes: Sequence[str]) -> Write:
    def write(row: Row | None) -> None:
        values = [None] * len(COLUMNS) if row is None else [_for_json(value) for value in row[: len(COLUMNS)]]
        record: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
        if classes:
            every = None if row is None else dict(zip(classes, map(_for_json, row.every), strict=True))
            record["probabilities"] = every
        file.write(json.dumps(record, ensure_ascii=False) + "\n")

    return write


def _for_json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no NaN


@dataclass
class _Counts:
    """Of what was answered so far; `layers` are those that ran."""

    texts: int = 0
    layers: int = 0
    truncated: int = 0


def _rows(parts: Iterable[Predictions], num_classes: int, counts: _Counts) -> Iterator[Row]:
    """The row of every text, with the probabilities of the first `num_classes` classes."""
    for part in parts:
        counts.texts += len(part)
        counts.layers += int(part.exit_layer.sum())
        counts.truncated += int(part.truncated.sum())
        names, values = _labels(part)
        every = part.probabilities[:, :num_classes].double().round(decimals=6).tolist()
        uncertainty = part.uncertainty.double().round(decimals=6).tolist()
        yield from map(Row._make, zip(names, values, uncertainty, part.exit_layer.tolist(), every, strict=True))


def _labels(part: Predictions) -> tuple[list[str], Sequence[float | list[float]]]:
    """Label and its probability; of a multi-label model all labels of a text, possibly none, and theirs."""
    probabilities = part.probabilities.double().round(decimals=6)
    if part.multi_label:
        names = [join_labels(classes) for classes in part.label_names]
        return names, [row[chosen].tolist() for row, chosen in zip(probabilities, part.labels, strict=True)]
    return [str(name) for name in part.label_names], probabilities.amax(dim=-1).tolist()

"""`fastbert predict`: a saved model over a file of texts, row by row."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

import transformers
from transformers import PreTrainedTokenizerBase

from fastbert_cli.errors import CommandError
from fastbert_cli.models import DTYPES, check_patching, label_names_of, load_model, place_and_patch
from fastbert_cli.predict.command import Predict
from fastbert_cli.setting_in_words import describe_objective
from fastbert_cli.texts import note_cut_off
from fastbert_hf.data import JSON_LINES, read_texts
from fastbert_hf.data.labels import SEPARATOR, join_labels
from fastbert_hf.data.tables import TABLES
from fastbert_hf.files import OutputInUseError, file_written_atomically
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.prediction import Predictions, iter_predict, resolve_max_length

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets take what begins with one for a formula
COLUMNS = ("label", "probability", "uncertainty", "exit_layer")

Row = tuple[str, float | list[float], float, int]


def run_predict(options: Predict) -> None:
    """Writes a row for every text of `options.file` and reports on stderr.

    Raises:
        CommandError: options that contradict each other, or a model that cannot be used.
        DataFileError: the file cannot be used.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    _check_paths(options)
    _check_speed(options)
    check_patching(options.patching)
    # All of the file is looked at before the model is, so that a bad last line does not cost the work before it.
    total = sum(1 for _ in read_texts(options.file, options.text_column, options.pair_column))
    model, tokenizer = load_model(options.model)
    place_and_patch(model, options.patching)

    begin = time.perf_counter()
    layers = truncated = 0
    try:
        answers = iter_predict(
            model,
            tokenizer,
            read_texts(options.file, options.text_column, options.pair_column),
            speed=0.0 if options.full_depth else options.speed,
            speedup=options.speedup,
            max_tokens=options.max_tokens,
            max_length=options.max_length,
            progress=options.progress,
            total=total,
        )
        with (
            closing(answers),
            _output(options.out, options.safe_tables, label_names_of(model) if options.probabilities else ()) as write,
        ):
            for part in answers:
                write(part)
                layers += int(part.exit_layer.sum())
                truncated += int(part.truncated.sum())
    except ValueError as error:
        raise CommandError(str(error)) from error
    seconds = time.perf_counter() - begin
    note_cut_off(truncated, resolve_max_length(model, tokenizer, options.max_length))
    print(
        f"{total:,} texts in {seconds:.1f} s ({total / seconds:,.0f} texts/s), "
        f"mean exit layer {layers / total:.2f} of {model.config.num_hidden_layers}; "
        + _what_was_used(options, model, tokenizer)
        + ("" if options.out is None else f"; written: {options.out}"),
        file=sys.stderr,
    )


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
        if DTYPES.get(options.patching.dtype, model.dtype) != model.dtype:
            precision = str(model.dtype).removeprefix("torch.")
            target += f"; guaranteed in {precision}, not with --dtype {options.patching.dtype}"
        if setting.max_length not in (None, resolve_max_length(model, tokenizer, options.max_length)):
            target += f"; guaranteed with --max-length {setting.max_length}"
    return f"calibrated setting ({target})"


def _check_paths(options: Predict) -> None:
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


@contextmanager
def _output(
    out: Path | None, safe: bool | None = None, classes: Sequence[str] = ()
) -> Iterator[Callable[[Predictions], None]]:
    """A function that writes the rows of some predictions, to stdout or to a file that appears when all is done.

    Args:
        out: the file; its ending says in which form.
        classes: names of all classes, to write the probabilities of all.
        safe: labels that look like a formula are marked as text; `None`: in `.csv`.
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


def _table_writer(
    write_row: Callable[[Sequence[str]], Any], safe: bool, classes: Sequence[str]
) -> Callable[[Predictions], None]:
    write_row([*COLUMNS, *(f"probability of {name}" for name in classes)])

    def write(part: Predictions) -> None:
        for (name, probability, uncertainty, layer), every in zip(_rows(part), _every(part, classes), strict=True):
            shown = probability if isinstance(probability, list) else [probability]
            cells = (
                f"'{name}" if safe and name.startswith(_FORMULA) else name,
                SEPARATOR.join(f"{x:.6f}" for x in shown),
                f"{uncertainty:.6f}",
                str(layer),
                *(f"{x:.6f}" for x in every),
            )
            write_row(cells)

    return write


def _json_writer(file: TextIO, classes: Sequence[str]) -> Callable[[Predictions], None]:
    def write(part: Predictions) -> None:
        for row, every in zip(_rows(part), _every(part, classes), strict=True):
            record: dict[str, Any] = {name: _for_json(value) for name, value in zip(COLUMNS, row, strict=True)}
            if classes:
                record["probabilities"] = dict(zip(classes, map(_for_json, every), strict=True))
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    return write


def _for_json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no NaN


def _every(part: Predictions, classes: Sequence[str]) -> Iterator[list[float]]:
    """The probabilities of all `classes` for every text; none where no classes are named."""
    return iter(part.probabilities[:, : len(classes)].double().round(decimals=6).tolist())


def _rows(part: Predictions) -> Iterator[Row]:
    """Label and its probability; of a multi-label model all labels of a text, possibly none, and theirs."""
    probabilities = part.probabilities.double().round(decimals=6)
    uncertainty = part.uncertainty.double().round(decimals=6)
    values: Iterable[float | list[float]]
    if part.multi_label:
        names = [join_labels(classes) for classes in part.label_names]
        values = [row[chosen].tolist() for row, chosen in zip(probabilities, part.labels, strict=True)]
    else:
        names = [str(name) for name in part.label_names]
        values = probabilities.amax(dim=-1).tolist()
    return zip(names, values, uncertainty.tolist(), part.exit_layer.tolist(), strict=True)

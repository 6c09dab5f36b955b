"""`fastbert predict`: a saved model over a file of texts, row by row."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import fastbert_kernels
from fastbert_hf.cli.text_files import JSON_LINES, read_texts
from fastbert_hf.files import file_written_atomically
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.prediction import Predictions, iter_predict

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
UNPATCHED = "none"
COLUMNS = ("label", "probability", "uncertainty", "exit_layer")


class PredictError(Exception):
    """The command cannot run; the message is one line with the remedy."""


@dataclass(frozen=True)
class PredictSettings:
    """Options of `fastbert predict`; see its help."""

    model: Path
    file: Path
    out: Path | None
    speed: float | None
    max_tokens: int | None
    max_length: int | None
    text_column: str | None
    pair_column: str | None
    backend: str
    dtype: str
    progress: bool | None


def run_predict(settings: PredictSettings) -> None:
    """Writes a row for every text of `settings.file` and reports on stderr.

    Raises:
        PredictError: options that contradict each other, or a model that cannot be used.
        DataFileError: the file cannot be used.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    _check_paths(settings)
    # All of the file is looked at before the model is, so that a bad last line does not cost the work before it.
    total = sum(1 for _ in read_texts(settings.file, settings.text_column, settings.pair_column))
    model, tokenizer = load_model(settings)

    begin = time.perf_counter()
    layers = 0
    try:
        answers = iter_predict(
            model,
            tokenizer,
            read_texts(settings.file, settings.text_column, settings.pair_column),
            speed=settings.speed,
            max_tokens=settings.max_tokens,
            max_length=settings.max_length,
            progress=settings.progress,
            total=total,
        )
        with closing(answers), _output(settings.out) as write:
            for part in answers:
                write(part)
                layers += int(part.exit_layer.sum())
    except ValueError as error:
        raise PredictError(str(error)) from error
    seconds = time.perf_counter() - begin
    print(
        f"{total:,} texts in {seconds:.1f} s ({total / seconds:,.0f} texts/s), "
        f"mean exit layer {layers / total:.2f} of {model.config.num_hidden_layers}"
        + ("" if settings.out is None else f"; written: {settings.out}"),
        file=sys.stderr,
    )


def load_model(settings: PredictSettings) -> tuple[FastBertForSequenceClassification, PreTrainedTokenizerBase]:
    """The saved model, patched, on the GPU if there is one and the backend is not that of the CPU; its tokenizer."""
    remedy = "name a folder into which a FastBERT and its tokenizer were saved with save_pretrained"
    if not settings.model.is_dir():  # Transformers would look for it on the hub
        raise PredictError(f"{settings.model}: no such folder; {remedy}")
    try:
        model = FastBertForSequenceClassification.from_pretrained(settings.model)
        tokenizer = AutoTokenizer.from_pretrained(settings.model)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise PredictError(f"{settings.model}: {' '.join(str(error).split())}; {remedy}") from error
    model.eval()
    if torch.cuda.is_available() and settings.backend != "cpu":
        model.to("cuda")
    if settings.backend != UNPATCHED:
        try:
            fastbert_kernels.patch(model, backend=settings.backend, dtype=DTYPES.get(settings.dtype))
        except (TypeError, ValueError, RuntimeError) as error:
            raise PredictError(f"{error}; choose another --backend or --dtype ({UNPATCHED}: not patched)") from error
    return model, tokenizer


def _check_paths(settings: PredictSettings) -> None:
    if settings.pair_column is not None and settings.text_column is None:
        raise PredictError("--pair-column goes with --text-column: one names the first text, the other the second")
    if settings.backend == UNPATCHED and settings.dtype != "auto":
        raise PredictError(f"--dtype is for patched models; leave it away or choose another --backend than {UNPATCHED}")
    out = settings.out
    if out is None:
        return
    if out.suffix.lower() not in (".tsv", *JSON_LINES):
        raise PredictError(f"--out {out}: unknown ending; name it .tsv or {' or '.join(JSON_LINES)}")
    if not out.parent.is_dir():
        raise PredictError(f"--out {out}: no such folder; make it first")
    if out.exists() and not out.is_file():
        raise PredictError(f"--out {out}: not a file that can be replaced; choose another name")
    if out.exists() and settings.file.exists() and out.samefile(settings.file):
        raise PredictError(f"--out {out}: that is the file of the texts; choose another name")


@contextmanager
def _output(out: Path | None) -> Iterator[Callable[[Predictions], None]]:
    """A function that writes the rows of some predictions, to stdout or to a file that appears when all is done."""
    if out is None:
        yield _table_writer(sys.stdout)
        return
    try:
        with file_written_atomically(out) as file:
            yield _json_writer(file) if out.suffix.lower() in JSON_LINES else _table_writer(file)
    except OSError as error:
        raise PredictError(f"--out {out}: cannot be written ({error.strerror})") from error


def _table_writer(file: TextIO) -> Callable[[Predictions], None]:
    file.write("\t".join(COLUMNS) + "\n")

    def write(part: Predictions) -> None:
        for name, *figures, layer in _rows(part):
            # A table has no quoting: a tab or a line break in a name would make another column or row.
            file.write("\t".join((" ".join(name.split()), *(f"{x:.6f}" for x in figures), str(layer))) + "\n")

    return write


def _json_writer(file: TextIO) -> Callable[[Predictions], None]:
    def write(part: Predictions) -> None:
        for row in _rows(part):
            # JSON knows no NaN.
            values = [None if isinstance(x, float) and not math.isfinite(x) else x for x in row]
            file.write(json.dumps(dict(zip(COLUMNS, values, strict=True)), ensure_ascii=False) + "\n")

    return write


def _rows(part: Predictions) -> Iterator[tuple[str, float, float, int]]:
    probability = part.probabilities.amax(dim=-1).double().round(decimals=6)
    uncertainty = part.uncertainty.double().round(decimals=6)
    return zip(part.label_names, probability.tolist(), uncertainty.tolist(), part.exit_layer.tolist(), strict=True)

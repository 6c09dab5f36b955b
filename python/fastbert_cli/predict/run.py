"""`fastbert predict`: a saved model over files of texts, row by row."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import transformers
from transformers import PreTrainedTokenizerBase

from fastbert_cli.errors import CommandError
from fastbert_cli.models import label_names_of, load_model, place_and_patch, precision_of
from fastbert_cli.predict.command import Predict
from fastbert_cli.predict.inputs import InputRow, Texts, files_of, reads_standard_input
from fastbert_cli.predict.writing import Layout, Row, Write, output
from fastbert_cli.setting_in_words import describe_objective
from fastbert_cli.texts import note_cut_off
from fastbert_hf.audit import Audit, AuditReport
from fastbert_hf.data import DataFileError, Text
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.prediction import WINDOW, Predictions, iter_predict, resolve_max_length, resolve_stride

_STREAMED_WINDOW = 256  # texts of standard input that wait for each other


def run_predict(options: Predict) -> None:
    """Write a row for every text of the files and report on stderr.

    Raises:
        CommandError: options that contradict each other, or a model that cannot be used.
        DataFileError: a file cannot be used.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # All of the files is looked at before the model is, so that a bad last line does not cost the work before it.
    streaming = reads_standard_input(options)
    found = None if streaming else _look_at_all(options)
    model, tokenizer = load_model(options.model)
    place_and_patch(model, options.patching)

    begin = time.perf_counter()
    counts = _Counts()
    texts = Texts(options, files_of(options))
    kinds = [str] * len(texts.columns) if found is None else found.kinds
    classes = label_names_of(model) if options.probabilities else []
    kind = {"multi_label": model.config.multi_label, "scores": model.config.gives_scores}
    layout = Layout(texts.columns, kinds, classes, **kind, safe=options.safe_tables)
    waiting: deque[InputRow] = deque()
    try:
        audit = _audit(options, model)
        answers = iter_predict(
            model,
            tokenizer,
            _texts_of(texts.rows(), waiting),
            speed=0.0 if options.full_depth else options.speed,
            speedup=options.speedup,
            max_tokens=options.max_tokens,
            max_length=options.max_length,
            stride=options.stride,
            window=_STREAMED_WINDOW if streaming else WINDOW,
            progress=options.progress,
            total=None if found is None else found.texts,
            audit=audit,
        )
        with closing(answers), output(options.out, layout) as write:
            for answer in _rows(answers, len(classes), counts):
                _write_empty(waiting, write)
                write(waiting.popleft().kept, answer)
                if streaming and options.out is None:
                    sys.stdout.flush()
            _write_empty(waiting, write)
            texts.check()  # files that have changed since they were looked at
    except DataFileError:
        raise
    except ValueError as error:
        raise CommandError(str(error)) from error
    seconds = time.perf_counter() - begin
    note_cut_off(counts.truncated, resolve_max_length(model, tokenizer, options.max_length))
    if texts.empty:
        what = "their rows have no values" if options.on_empty == "mark" else "they have no rows"
        print(f"{texts.empty:,} of {counts.texts + texts.empty:,} texts are empty; {what}", file=sys.stderr)
    if audit is not None:
        for line in _audited(audit.report()):
            print(line, file=sys.stderr)
    print(
        f"{counts.texts:,} texts in {seconds:.1f} s ({counts.texts / seconds:,.0f} texts/s), "
        f"mean exit layer {counts.layers / max(counts.texts, 1):.2f} of {model.config.num_hidden_layers}; "
        + _what_was_used(options, model, tokenizer)
        + ("" if options.out is None else f"; written: {options.out}"),
        file=sys.stderr,
    )


class _Found(NamedTuple):
    """What the files hold: how many texts that are not empty, and the type of the values of every kept column."""

    texts: int
    kinds: list[type]


def _look_at_all(options: Predict) -> _Found:
    """Read the files once, and raise all that is wrong with them."""
    texts = Texts(options, files_of(options))
    number, kinds = 0, [set[type]() for _ in texts.columns]
    for row in texts.rows():
        number += row.text is not None
        for seen, value in zip(kinds, row.kept, strict=True):
            if value is not None:
                seen.add(type(value))
    texts.check()
    return _Found(number, [float if seen == {int, float} else seen.pop() if len(seen) == 1 else str for seen in kinds])


def _texts_of(rows: Iterable[InputRow], waiting: deque[InputRow]) -> Iterator[Text]:
    """Yield the texts of `rows`, which wait for their answers."""
    for row in rows:
        waiting.append(row)
        if row.text is not None:
            yield row.text


def _write_empty(waiting: deque[InputRow], write: Write) -> None:
    """Write the rows of empty texts up to the next text."""
    while waiting and waiting[0].text is None:
        write(waiting.popleft().kept, None)


def _audit(options: Predict, model: FastBertForSequenceClassification) -> Audit | None:
    if options.audit is None:
        return None
    return Audit.of(model, options.audit, speed=options.speed, speedup=options.speedup, seed=options.audit_seed)


def _audited(report: AuditReport) -> list[str]:
    """Return what an audit saw, in one line, and its warnings."""
    low, high = report.disagreement_interval
    if report.disagreement is None:
        parts = [f"audit: none of the {report.texts:,} texts was drawn; give --audit a larger share"]
    else:
        parts = [
            f"audit: {report.disagreements:,} of {report.audited:,} texts got another answer than at full depth"
            f"{'' if report.max_score_change is None else f', more than {report.max_score_change:g} from it'} "
            f"({report.disagreement:.2%}; of all texts {low:.2%} to {high:.2%}, {report.confidence:.4g} confidence)"
        ]
    if report.promised is not None:
        parts.append(f"promised: at most {100 * report.promised:.4g} %")
    if report.total_variation is not None:
        parts.append(f"exit layers: {report.total_variation:.1%} of texts leave elsewhere than in the calibration")
    return ["; ".join(parts), *(f"warning: {line}" for line in report.warnings)]


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
        every: list[list[float]] = [[]] * len(part)
        if num_classes:
            every = part.probabilities[:, :num_classes].double().round(decimals=6).tolist()
        uncertainty = part.uncertainty.double().round(decimals=6).tolist()
        yield from map(Row._make, zip(names, values, uncertainty, part.exit_layer.tolist(), every, strict=True))


def _labels(part: Predictions) -> tuple[list[list[str]], list[list[float]]]:
    """The label of every text and its probability; of a multi-label model all labels, possibly none, and theirs; of a
    model with one output no label, and the score."""
    if part.logits.shape[-1] == 1:
        return [[] for _ in range(len(part))], [[score] for score in part.scores.double().tolist()]
    probabilities = part.probabilities.double().round(decimals=6)
    if part.multi_label:
        chosen = [row[which].tolist() for row, which in zip(probabilities, part.labels, strict=True)]
        return [list(names) for names in part.label_names], chosen
    return [[str(name)] for name in part.label_names], probabilities.amax(dim=-1, keepdim=True).tolist()

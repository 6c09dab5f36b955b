"""`fastbert analyze`: what early exits do to a saved model, as a page, charts and figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from fastbert_cli import scores
from fastbert_cli.analyze.command import FIGURES, REPORT, RESULTS, Analyze
from fastbert_cli.analyze.report import ANALYZED, Source, write
from fastbert_cli.analyze.times import ROUNDS, TimedModel, bag_calls, batches_to_time, time_models
from fastbert_cli.errors import faults_explained
from fastbert_cli.models import label_names_of, load_classifier, longest_text, place_and_patch
from fastbert_cli.options import UNPATCHED, Patching
from fastbert_cli.scores import progress_bars
from fastbert_cli.texts import note_cut_off, note_seen, read_for, with_ids_of
from fastbert_hf.analysis import (
    Analysis,
    BagOfWords,
    Point,
    WallClock,
    analyze,
    check_model,
    check_samples,
    train_bag_of_words,
)
from fastbert_hf.calibration import record_exits
from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.progress import Progress
from fastbert_hf.scoring import Row

_COMPARED = "compared"


@dataclass(frozen=True)
class _Subject:
    """A model and what it is run on."""

    model: FastBertForSequenceClassification
    dataset: TokenisedDataset


def run_analyze(options: Analyze) -> None:
    """Write `options.out` and print the scores.

    Raises:
        CommandError: options that contradict each other, a model that cannot be used, or data that say too little.
        DataFileError: the file or data set cannot be used, or has labels that the model does not know.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, tokenizer = _load(options.model, options.backend)
    other = None if options.compare is None else _load(options.compare, options.backend)
    class_names = label_names_of(model)
    with faults_explained():
        data = read_for(model, options.labelled)
    with faults_explained(options.labelled.data):
        check_samples(data.label_ids, class_names)
    bag = _bag_of_words(model, options)
    subjects = {ANALYZED: _subject(model, tokenizer, data, options.max_length)}
    if options.compare is not None and other is not None:
        own_ids = with_ids_of(data, label_names_of(other[0]), f"--compare {options.compare}")
        subjects[_COMPARED] = _subject(*other, own_ids, options.max_length)

    with progress_bars() as advance, faults_explained():
        records = {
            name: record_exits(subject.model, subject.dataset, options.batch_size, advance)
            for name, subject in subjects.items()
        }
        analysis = analyze(
            records[ANALYZED],
            sorted(set(options.speed)),
            setting=model.calibrated_setting,
            compared=records.get(_COMPARED),
            compared_setting=None if other is None else other[0].calibrated_setting,
            bag=None if bag is None else bag.answers(data),
            class_names=class_names,
        )
        timing: dict[str, Any] | None = None
        if options.timed:
            analysis, timing = _with_times(analysis, subjects, bag, data, options, advance)
    source = Source(
        model=str(options.model),
        compared=None if options.compare is None else str(options.compare),
        data=options.labelled.data,
        split=options.labelled.split,
        subset=options.labelled.subset,
        max_length=options.max_length,
        dtype=str(model.dtype).removeprefix("torch."),
    )
    write(options.out, analysis, source, timing, data, with_texts=options.texts)
    console = Console(highlight=False, soft_wrap=True)
    scores.show(console, _table(analysis))
    console.print(analysis.verdict.sentence, markup=False)
    note_seen(model.seen_texts.among(data))
    if bag is None:
        console.print("note: --train FILE, with the texts of the training, compares a bag of words, too", markup=False)
    console.print(f"written: {options.out}/{REPORT}, {FIGURES}/, {RESULTS}", markup=False)


def _load(folder: Path, backend: str) -> tuple[FastBertForSequenceClassification, PreTrainedTokenizerBase]:
    """The model on the device where it is timed, not patched."""
    model, tokenizer = load_classifier(folder)
    with faults_explained(str(folder)):
        check_model(model.config.exit_layers, model.config.multi_label)
    if backend != "cpu":
        place_and_patch(model, Patching(UNPATCHED))
    return model, tokenizer


def _subject(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    max_length: int | None,
) -> _Subject:
    longest = longest_text(model, tokenizer, max_length)
    with faults_explained():
        dataset = TokenisedDataset(data, tokenizer, longest)
    note_cut_off(dataset.truncated, longest)
    return _Subject(model, dataset)


def _bag_of_words(model: FastBertForSequenceClassification, options: Analyze) -> BagOfWords | None:
    """Return a bag of words that has learnt from the training texts, if there are any."""
    if (training := options.training_texts) is None:
        return None
    with faults_explained(training.data):
        return train_bag_of_words(read_for(model, training))


def _with_times(
    analysis: Analysis,
    subjects: dict[str, _Subject],
    bag: BagOfWords | None,
    data: ClassificationData,
    options: Analyze,
    advance: Progress,
) -> tuple[Analysis, dict[str, Any]]:
    """Return the analysis with times, and how they were taken."""
    models = {
        name: TimedModel(
            subject.model,
            batches_to_time(subject.dataset, options.batch_size, options.timed_texts, subject.model.device),
        )
        for name, subject in subjects.items()
    }
    calls = None if bag is None else bag_calls(bag, data, options.batch_size, options.timed_texts)
    times, of_bag, agreement = time_models(models, sorted(set(options.speed)), options.backend, advance, calls)
    compared, baseline = analysis.compared, analysis.baseline
    analysis = replace(
        analysis,
        tradeoff=analysis.tradeoff.timed(times[ANALYZED]),
        compared=None if compared is None else compared.timed(times[_COMPARED]),
        baseline=None if baseline is None else replace(baseline, wall_clock=of_bag),
    )
    texts = sum(len(batch["input_ids"]) for batch in models[ANALYZED].batches)
    return analysis, {
        "texts": texts,
        "batch_size": options.batch_size,
        "rounds": ROUNDS,
        "backend": options.backend,
        "patched": {name: name in agreement for name in models},
        "agreement_of_patched_and_unpatched": {name: asdict(found) for name, found in agreement.items()},
    }


def _table(analysis: Analysis) -> list[Row]:
    """Return the summary as rows for `scores.show`: the model, its fewest first layers that do, and a bag of words."""
    tradeoff, baseline = analysis.tradeoff, analysis.baseline
    calibrated = () if tradeoff.calibrated is None else (tradeoff.calibrated,)
    alone = [point for point in tradeoff.depths[:-1] if point.value == analysis.verdict.layers]
    rows: list[Row] = []
    for point in (tradeoff.full_depth, *calibrated, *tradeoff.speeds, *alone):
        row: Row = {
            "setting": _name(point, tradeoff.full_depth),
            "accuracy": point.accuracy,
            "macro_f1": point.macro_f1,
            "mean_exit_layer": point.mean_exit_layer,
            "flops_speedup": point.flops_speedup,
        }
        rows.append(row | _times(point.wall_clock))
    if baseline is not None:
        scored = {"accuracy": baseline.accuracy, "macro_f1": baseline.macro_f1}
        rows.append({"setting": f"bag of {baseline.unit}"} | scored | _times(baseline.wall_clock))
    return rows


def _name(point: Point, full_depth: Point) -> str:
    if point is full_depth:
        return "full depth"
    if point.kind == "depth":
        return f"first {point.value:g} layers" if point.value != 1 else "first layer"
    return "calibrated" if point.kind == "calibrated" else f"Speed {point.value}"


def _times(clock: WallClock | None) -> Row:
    return {} if clock is None else {"ms_per_text": clock.milliseconds_per_text, "speedup": clock.speedup}

"""`fastbert analyze`: what early exits do to a saved model, as a page, charts and figures."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from fastbert_hf.analysis import Analysis, Example, analyse, captions, check_model, check_samples
from fastbert_hf.analysis.charts import accuracy_by_uncertainty_chart, changes_chart, exits_chart, uncertainty_chart
from fastbert_hf.analysis.page import Page, Picture, ShownExample, render
from fastbert_hf.analysis.tradeoff_charts import flops_chart, wall_clock_chart
from fastbert_hf.calibration import SETTING_FILE, CalibratedSetting, ExitRecords, record_exits
from fastbert_hf.cli import scores
from fastbert_hf.cli.analysis_times import ROUNDS, TimedModel, batches_to_time, time_models
from fastbert_hf.cli.errors import CommandError, faults_explained
from fastbert_hf.cli.models import UNPATCHED, check_max_length, label_names_of, load_model, place_and_patch
from fastbert_hf.data import ClassificationData, TokenisedDataset, read_classification_data
from fastbert_hf.files import folder_written_atomically
from fastbert_hf.machine import describe_machine
from fastbert_hf.modeling import FastBertForSequenceClassification

REPORT, FIGURES, RESULTS = "report.html", "figures", "analysis.json"
_ANALYSED, _COMPARED = "analysed", "compared"
# Of classes that the page names.
_MOST_CLASSES = 12


@dataclass(frozen=True)
class AnalyzeSettings:
    """Options of `fastbert analyze`; see its help."""

    model: Path
    compare: Path | None
    data: str
    split: str | None
    subset: str | None
    text_column: str | None
    pair_column: str | None
    label_column: str | None
    speeds: tuple[float, ...]
    max_length: int | None
    batch_size: int
    timed: bool
    timed_texts: int
    texts: bool
    backend: str
    out: Path


@dataclass(frozen=True)
class _Subject:
    """A model with what it is run on and what its folder says."""

    folder: Path
    model: FastBertForSequenceClassification
    dataset: TokenisedDataset
    setting: CalibratedSetting | None


def run_analyze(settings: AnalyzeSettings) -> None:
    """Writes `settings.out` and prints the scores.

    Raises:
        CommandError: options that contradict each other, a model that cannot be used, or data that say too little.
        DataFileError: the file or data set cannot be used, or has labels that the model does not know.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    _check_out(settings.out)
    model, tokenizer = _load(settings.model, settings.backend)
    other = None if settings.compare is None else _load(settings.compare, settings.backend)
    class_names = label_names_of(model)
    with faults_explained():
        data = read_classification_data(
            settings.data,
            class_names,
            split=settings.split,
            subset=settings.subset,
            text_column=settings.text_column,
            pair_column=settings.pair_column,
            label_column=settings.label_column,
        )
    with faults_explained(settings.data):
        check_samples(data.label_ids, class_names)
    subjects = {_ANALYSED: _subject(settings.model, model, tokenizer, data, settings.max_length)}
    if settings.compare is not None and other is not None:
        own_ids = _with_ids_of(data, label_names_of(other[0]), settings.compare)
        subjects[_COMPARED] = _subject(settings.compare, *other, own_ids, settings.max_length)

    with Progress(console=Console(stderr=True), transient=True) as progress, faults_explained():
        records = {name: _record(subject, settings.batch_size, progress) for name, subject in subjects.items()}
        settings_of = {name: _usable_setting(subject, records[name]) for name, subject in subjects.items()}
        analysis = analyse(
            records[_ANALYSED],
            settings.speeds,
            setting=settings_of[_ANALYSED],
            compared=records.get(_COMPARED),
            compared_setting=settings_of.get(_COMPARED),
        )
        timing: dict[str, Any] | None = None
        if settings.timed:
            analysis, timing = _with_times(analysis, subjects, settings, progress)
    _write(settings, analysis, timing, data, subjects[_ANALYSED].model)
    console = Console(highlight=False, soft_wrap=True)
    scores.show(console, _table(analysis))
    console.print(f"written: {settings.out}/{REPORT}, {FIGURES}/, {RESULTS}", markup=False)


def _check_out(out: Path) -> None:
    """Raise `CommandError` unless `out` is new, empty, or holds an earlier analysis and nothing else."""
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out}: a file; name a folder")
    if Path.cwd().is_relative_to(out.resolve()):
        raise CommandError(f"--out {out}: the folder is replaced as a whole, and this one is in use; name a new one")
    if out.is_dir():
        others = sorted(path.name for path in out.iterdir() if path.name not in (REPORT, FIGURES, RESULTS))
        if others:
            raise CommandError(f"--out {out}: holds {others[0]}, which is no part of an analysis; name a new folder")


def _load(folder: Path, backend: str) -> tuple[FastBertForSequenceClassification, PreTrainedTokenizerBase]:
    """The model on the device where it is timed, not patched."""
    model, tokenizer = load_model(folder)
    with faults_explained(str(folder)):
        check_model(model.config.exit_layers, model.config.multi_label)
    if backend != "cpu":
        place_and_patch(model, UNPATCHED, "auto")
    return model, tokenizer


def _with_ids_of(data: ClassificationData, class_names: Sequence[str], folder: Path) -> ClassificationData:
    """`data` with the class ids of another model."""
    used = [data.label_names[number] for number in sorted(set(data.label_ids))]
    for name in used:
        if name not in class_names:
            raise CommandError(
                f"--compare {folder}: the model does not know the class {name!r}; compare models of the same classes"
            )
    ids = [class_names.index(data.label_names[number]) for number in data.label_ids]
    return replace(data, label_ids=ids, label_names=list(class_names))


def _subject(
    folder: Path,
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    max_length: int | None,
) -> _Subject:
    longest = min(model.config.max_position_embeddings, tokenizer.model_max_length)
    if max_length is not None:
        check_max_length(model, max_length)
        longest = max_length
    with faults_explained():
        return _Subject(folder, model, TokenisedDataset(data, tokenizer, longest), CalibratedSetting.load(folder))


def _record(subject: _Subject, batch_size: int, progress: Progress) -> ExitRecords:
    task = progress.add_task("every exit of every text", total=len(subject.dataset))
    return record_exits(subject.model, subject.dataset, batch_size, lambda done: progress.advance(task, done))


def _usable_setting(subject: _Subject, records: ExitRecords) -> CalibratedSetting | None:
    """The setting of the model's folder, unless it was made for other weights, as a note on stderr then says."""
    if subject.setting is None or subject.setting.fingerprint == records.fingerprint:
        return subject.setting
    print(
        f"note: {subject.folder / SETTING_FILE} was made for other weights and is left out; calibrate again",
        file=sys.stderr,
    )
    return None


def _with_times(
    analysis: Analysis, subjects: dict[str, _Subject], settings: AnalyzeSettings, progress: Progress
) -> tuple[Analysis, dict[str, Any]]:
    """The analysis with times, and how they were taken."""

    def track(items: Iterable[Any]) -> Iterable[Any]:
        return progress.track(list(items), description="times")

    models = {
        name: TimedModel(
            subject.model,
            batches_to_time(subject.dataset, settings.batch_size, settings.timed_texts, subject.model.device),
        )
        for name, subject in subjects.items()
    }
    times, agreement = time_models(models, settings.speeds, settings.backend, track)
    compared = analysis.compared
    analysis = replace(
        analysis,
        tradeoff=analysis.tradeoff.timed(times[_ANALYSED]),
        compared=None if compared is None else compared.timed(times[_COMPARED]),
    )
    texts = sum(len(batch["input_ids"]) for batch in models[_ANALYSED].batches)
    return analysis, {
        "texts": texts,
        "batch_size": settings.batch_size,
        "rounds": ROUNDS,
        "backend": settings.backend,
        "patched": {name: name in agreement for name in models},
        "agreement_of_patched_and_unpatched": agreement,
    }


def _write(
    settings: AnalyzeSettings,
    analysis: Analysis,
    timing: dict[str, Any] | None,
    data: ClassificationData,
    model: FastBertForSequenceClassification,
) -> None:
    machine = describe_machine()
    machine["versions"]["matplotlib"] = importlib.metadata.version("matplotlib")
    easiest, hardest = (_shown(examples, data, settings.texts) for examples in (analysis.easiest, analysis.hardest))
    pictures = _pictures(analysis)
    page = Page(
        title=f"Early exits of {settings.model}",
        facts=_facts(settings, analysis, data, machine),
        summary=captions.summary(analysis),
        pictures=pictures,
        examples_caption=captions.examples(analysis),
        easiest=easiest,
        hardest=hardest,
        notes=_notes(analysis, timing, machine),
    )
    figures = asdict(analysis)
    del figures["easiest"], figures["hardest"]
    results = {
        "machine": machine,
        "model": str(settings.model),
        "compared_model": None if settings.compare is None else str(settings.compare),
        "data": {
            **{"source": settings.data, "split": settings.split, "subset": settings.subset},
            **{"texts": len(data), "classes": data.label_names, "max_length": settings.max_length},
        },
        "dtype": str(model.dtype).removeprefix("torch."),
        "flops_convention": scores.FLOPS_CONVENTION,
        "timing": timing,
        "figures": figures,
        "examples": {
            **{"speed": analysis.example_speed, "texts_shown": settings.texts},
            "easiest": [asdict(example) for example in easiest],
            "hardest": [asdict(example) for example in hardest],
        },
    }
    with faults_explained(f"--out {settings.out}"), folder_written_atomically(settings.out) as folder:
        (folder / FIGURES).mkdir()
        for picture in pictures:
            (folder / FIGURES / f"{picture.name}.png").write_bytes(picture.png)
        text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / RESULTS).write_text(text, encoding="utf-8")
        (folder / REPORT).write_text(render(page, analysis), encoding="utf-8")


def _shown(examples: Sequence[Example], data: ClassificationData, with_texts: bool) -> list[ShownExample]:
    def texts_of(row: int) -> tuple[str, ...]:
        return (data.texts[row],) if data.pairs is None else (data.texts[row], data.pairs[row])

    return [
        ShownExample.of(example, data.label_names, texts_of(example.row) if with_texts else None)
        for example in examples
    ]


def _pictures(analysis: Analysis) -> list[Picture]:
    pictures = [
        Picture(
            "accuracy_by_uncertainty",
            "Does lower uncertainty mean higher accuracy?",
            "Accuracy and number of texts in ten intervals of the uncertainty, for three exit heads",
            captions.accuracy_by_uncertainty(analysis),
            accuracy_by_uncertainty_chart(analysis),
        ),
        Picture(
            "uncertainty_by_layer",
            "How uncertain is each layer?",
            "Distribution of the uncertainty of the texts that reach each layer, at several Speeds",
            captions.uncertainty(analysis),
            uncertainty_chart(analysis),
        ),
        Picture(
            "exit_layers",
            "Where do texts leave?",
            "Share of the texts that leave behind each layer, at every Speed",
            captions.exits(analysis),
            exits_chart(analysis),
        ),
        Picture(
            "accuracy_and_flops",
            "What does speed cost in accuracy?",
            "Accuracy against FLOPs speed-up: early exits, and models of the first layers only",
            captions.flops(analysis),
            flops_chart(analysis),
        ),
    ]
    if analysis.tradeoff.full_depth.wall_clock is not None:
        pictures.append(
            Picture(
                "accuracy_and_time",
                "",
                "Accuracy against measured speed-up: early exits, and models of the first layers only",
                captions.wall_clock(analysis),
                wall_clock_chart(analysis),
            )
        )
    pictures.append(
        Picture(
            "changed_predictions",
            "What do the later layers correct, and what do they spoil?",
            "Share of texts that the last layer corrects and spoils, by layer and by Speed",
            captions.changes(analysis),
            changes_chart(analysis),
        )
    )
    return pictures


def _facts(
    settings: AnalyzeSettings, analysis: Analysis, data: ClassificationData, machine: dict[str, Any]
) -> dict[str, str]:
    counts = [f"{name} {n:,}" for name, n in zip(data.label_names, analysis.samples_per_class, strict=True)]
    if len(counts) > _MOST_CLASSES:
        counts = [*counts[:_MOST_CLASSES], f"and {len(counts) - _MOST_CLASSES} more"]
    largest = max(analysis.samples_per_class) / analysis.samples
    parts = [settings.data, *(part for part in (settings.subset, settings.split) if part is not None)]
    facts = {"Model": f"{settings.model}, {analysis.num_layers} layers, exit heads behind {_layers(analysis)}"}
    if settings.compare is not None:
        facts["Compared model"] = str(settings.compare)
    return facts | {
        "Data": f"{', '.join(parts)}: {analysis.samples:,} texts of {analysis.mean_tokens:.1f} tokens on average",
        "Classes": f"{', '.join(counts)} (always the most frequent: {captions.percent(largest, 1)} right)",
        "Machine": machine["cuda_device"]
        or f"{machine['processor']}, {machine['threads']} thread{'s' * (machine['threads'] != 1)}",
        "Date": machine["date"].replace("T", " ").replace("+00:00", " UTC"),
        "Versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version),
    }


def _layers(analysis: Analysis) -> str:
    if len(analysis.exit_layers) == analysis.num_layers:
        return "all of them"
    return f"layers {', '.join(map(str, analysis.exit_layers))}"


def _notes(analysis: Analysis, timing: dict[str, Any] | None, machine: dict[str, Any]) -> list[str]:
    notes = [
        "Every text ran once through all layers and all exit heads of the unpatched model; from these answers follows "
        "what happens at any Speed. Uncertainty is the entropy of a head's answer divided by that of a uniform one. At "
        "a Speed, a text leaves at the first head whose uncertainty is below it; at the last layer every text leaves.",
        "FLOPs are those of Linear layers, as Liu et al. (2020) count them, at each text's own length and with every "
        "head that is asked. A model of the first layers only has those layers and the head behind them, with the same "
        "weights. Intervals are those of Clopper and Pearson; they are for each figure by itself.",
    ]
    if timing is not None:
        kernels = "on the fast kernels" if timing["patched"][_ANALYSED] else "without the fast kernels"
        notes.append(
            f"Times: {timing['texts']:,} texts, evenly spread over the data, in batches of {timing['batch_size']}, "
            f"{kernels}; all ways to run took turns batch by batch in {timing['rounds']} rounds, of which the median "
            f"counts. Speed-ups are over the analysed model at full depth, timed in the same rounds."
        )
        checked = timing["agreement_of_patched_and_unpatched"].get(_ANALYSED)
        if checked is not None:
            notes.append(
                f"Patched and unpatched answers, on up to four of these batches at every Speed: "
                f"{checked['labels']:.2%} of labels and {checked['exit_layers']:.2%} of exit layers are equal."
            )
    return notes


def _table(analysis: Analysis) -> list[scores.Row]:
    """The summary as rows for `scores.show`."""
    rows: list[scores.Row] = []
    for point in (analysis.tradeoff.full_depth, *analysis.tradeoff.speeds):
        row: scores.Row = {
            "speed": point.value if point.kind == "speed" else None,
            "accuracy": point.accuracy,
            "mean_exit_layer": point.mean_exit_layer,
            "flops_speedup": point.flops_speedup,
        }
        if point.wall_clock is not None:
            row["ms_per_text"] = point.wall_clock.milliseconds_per_text
            row["speedup"] = point.wall_clock.speedup
        rows.append(row)
    return rows

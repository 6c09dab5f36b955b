"""`fastbert calibrate`: from labelled texts and a wish to a setting in the model's folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from transformers.utils import logging

from fastbert_cli import measure
from fastbert_cli.calibrate import report
from fastbert_cli.errors import CommandError, faults_explained
from fastbert_cli.models import (
    check_max_length,
    check_patching,
    label_names_of,
    load_model,
    place,
    place_and_patch,
)
from fastbert_hf.calibration import (
    Calibration,
    Clock,
    CriterionChoice,
    ExitRecords,
    ExitRule,
    Objective,
    Search,
    TemperatureScaling,
    calibrate_and_compare,
    calibrate_to_latency,
    check_samples,
    fold_temperatures,
    model_fingerprint,
    record_exits,
    scale_temperatures,
)
from fastbert_hf.calibration.search import check_criterion
from fastbert_hf.calibration.temperature import check_foldable
from fastbert_hf.data import TokenisedDataset, read_classification_data
from fastbert_hf.files import files_replaced
from fastbert_hf.machine import describe_machine
from fastbert_hf.modeling import FastBertForSequenceClassification

_RECORDING_BATCH = 32


@dataclass(frozen=True)
class CalibrateSettings:
    """Options of `fastbert calibrate`; see its help."""

    model: Path
    data: str
    max_drop: float | None
    min_speedup: float | None
    latency_ms: float | None
    split: str | None
    subset: str | None
    text_column: str | None
    pair_column: str | None
    label_column: str | None
    max_length: int | None
    records: Path | None
    criterion: CriterionChoice
    one_speed: bool
    confidence: float
    seed: int
    temperature_scaling: bool
    batch_size: int | None
    backend: str | None
    dtype: str | None
    as_json: bool
    dry_run: bool

    @property
    def search(self) -> Search:
        """What the library calls it."""
        return "one_speed" if self.one_speed else "searched"


def run_calibrate(settings: CalibrateSettings) -> None:
    """Prints what was found and, unless it is a dry run, writes it into the model's folder.

    Raises:
        CommandError: a wish, options, samples or a model that cannot be used.
        DataFileError: the file or data set cannot be used, or has labels that the model does not know.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    objective = _objective(settings)
    if settings.records is not None and not settings.records.parent.is_dir():
        raise CommandError(f"--records {settings.records}: no such folder; make it first")
    if settings.records is not None and settings.records.is_dir():
        raise CommandError(f"--records {settings.records}: a folder; name a file")
    model, tokenizer = load_model(settings.model)
    if not settings.dry_run and not os.access(settings.model, os.W_OK):  # known before the work, not after it
        raise CommandError(
            f"{settings.model}: cannot be written into; copy the model, or see the setting with --dry-run"
        )
    with faults_explained():
        _check_model(model, settings)
        max_length = settings.max_length or min(model.config.max_position_embeddings, tokenizer.model_max_length)
        check_max_length(model, max_length)
        data = read_classification_data(
            settings.data,
            label_names_of(model),
            split=settings.split,
            subset=settings.subset,
            text_column=settings.text_column,
            pair_column=settings.pair_column,
            label_column=settings.label_column,
            multi_label=False,
        )
        # Before the model runs over all of it.
        labels = torch.tensor(data.label_ids)
        check_samples(labels, objective, settings.confidence, settings.search, settings.temperature_scaling)
        dataset = TokenisedDataset(data, tokenizer, max_length)
        place(model, settings.backend or "auto")
        records = _records(settings, model, dataset)
        scaling = None
        if settings.temperature_scaling:
            scaling = scale_temperatures(records, seed=settings.seed)
            fold_temperatures(model, scaling.temperatures)
            records = replace(scaling.records, fingerprint=model_fingerprint(model))
        calibration = _calibrate(settings, objective, model, dataset, records)
        calibration = replace(calibration, setting=replace(calibration.setting, max_length=max_length))
    if not settings.dry_run:
        with faults_explained(f"{settings.model} cannot be written"):
            _save(settings.model, model, calibration, scaling)
    _report(settings, records, calibration, scaling, tokenised_to=max_length)


def _objective(settings: CalibrateSettings) -> Objective:
    wishes = {
        "--max-drop": settings.max_drop,
        "--min-speedup": settings.min_speedup,
        "--latency-ms": settings.latency_ms,
    }
    given = [name for name, value in wishes.items() if value is not None]
    if len(given) != 1:
        what = "no wish" if not given else " and ".join(given) + " at once"
        raise CommandError(f"{what}; give exactly one of {', '.join(wishes)}")
    clock = {"--batch-size": settings.batch_size, "--backend": settings.backend, "--dtype": settings.dtype}
    idle = [name for name, value in clock.items() if value is not None]
    if idle and settings.latency_ms is None:
        raise CommandError(f"{idle[0]} is for --latency-ms, which alone measures times; leave it away")
    check_patching(settings.backend or "auto", settings.dtype or "auto")
    with faults_explained(given[0]):
        return Objective(settings.max_drop, settings.min_speedup, settings.latency_ms)


def _check_model(model: FastBertForSequenceClassification, settings: CalibrateSettings) -> None:
    if model.config.multi_label:
        raise CommandError(
            "calibration is for models that give a text exactly one class, and this one is multi-label; choose its "
            "Speed with fastbert evaluate"
        )
    if len(model.student_classifiers) == 0:
        raise CommandError(
            "this model has no student classifiers, so no text can leave early; train it with more --exit-layers"
        )
    check_criterion(settings.criterion, model.num_labels)
    if settings.temperature_scaling:
        check_foldable(model)


def _records(
    settings: CalibrateSettings, model: FastBertForSequenceClassification, dataset: TokenisedDataset
) -> ExitRecords:
    """Those of `settings.records` if they are there, else those of a pass of the model, which are written there."""
    path = settings.records
    if path is not None and path.exists():
        records = ExitRecords.load(path)
        known = (records.labels.tolist(), records.texts) == (dataset.label_ids, dataset.fingerprint)
        if not known or records.fingerprint != model_fingerprint(model):
            other = "other texts or labels" if not known else "other weights than this model has"
            raise CommandError(f"--records {path}: recorded with {other}; delete the file or name another")
        return records
    with _bar() as progress:
        task = progress.add_task("every exit of every text", total=len(dataset))
        records = record_exits(model, dataset, _RECORDING_BATCH, lambda count: progress.advance(task, count))
    if path is not None:
        records.save(path)
    return records


def _calibrate(
    settings: CalibrateSettings,
    objective: Objective,
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    records: ExitRecords,
) -> Calibration:
    if objective.max_latency_ms is None:
        return calibrate_and_compare(
            records,
            objective,
            confidence=settings.confidence,
            search=settings.search,
            criterion=settings.criterion,
            temperatures_fitted=settings.temperature_scaling,
            seed=settings.seed,
        )
    with _bar() as progress:
        return calibrate_to_latency(
            records,
            objective.max_latency_ms,
            _clock(settings, model, dataset, progress),
            confidence=settings.confidence,
            search=settings.search,
            criterion=settings.criterion,
        )


def _clock(
    settings: CalibrateSettings,
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    progress: Progress,
) -> Clock:
    backend, dtype = settings.backend or "auto", settings.dtype or "auto"
    patched = place_and_patch(model, backend, dtype)
    batches = measure.timed_batches(model, dataset, settings.batch_size or 1, settings.seed)
    machine = describe_machine()

    def times(rules: Sequence[ExitRule]) -> list[float]:
        return measure.milliseconds_per_text(
            model, batches, rules, lambda steps: progress.track(list(steps), description="times")
        )

    return Clock(
        times,
        batch_size=settings.batch_size or 1,
        texts=sum(len(batch["input_ids"]) for batch in batches),
        machine=machine["cuda_device"] or f"{machine['processor']}, {machine['threads']} thread(s)",
        precision=f"{str(model.dtype).removeprefix('torch.') if dtype == 'auto' else dtype}, "
        + ("on the fast kernels" if patched else "without the fast kernels"),
    )


def _bar() -> Progress:
    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _save(
    folder: Path,
    model: FastBertForSequenceClassification,
    calibration: Calibration,
    scaling: TemperatureScaling | None,
) -> None:
    if scaling is None:
        calibration.setting.save(folder)
        return
    model.calibrated_setting = calibration.setting
    with files_replaced(folder) as temporary:
        model.save_pretrained(temporary)


def _report(
    settings: CalibrateSettings,
    records: ExitRecords,
    calibration: Calibration,
    scaling: TemperatureScaling | None,
    *,
    tokenised_to: int,
) -> None:
    if not settings.as_json:
        saved = None if settings.dry_run else settings.model
        report.show(Console(highlight=False, soft_wrap=True), records, calibration, scaling, saved)
        return
    setting = asdict(calibration.setting)
    del setting["curve"]  # the file has it
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "model": str(settings.model),
        "data": settings.data,
        "texts": len(records),
        "max_length": tokenised_to,
        "saved": not settings.dry_run,
        "setting": setting,
        "compared": [asdict(found) for found in calibration.compared],
        "temperature_scaling": None if scaling is None else report.as_values(scaling),
    }
    print(json.dumps(results, indent=2, ensure_ascii=False))

"""`fastbert calibrate`: from texts and a target to a setting in the model's folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils import logging

import fastbert_kernels
from fastbert_cli.calibrate import report
from fastbert_cli.calibrate.command import Calibrate
from fastbert_cli.calibrate.naming import options_named
from fastbert_cli.calibrate.search import with_search
from fastbert_cli.calibrate.unseen import unseen_texts
from fastbert_cli.errors import CommandError, faults_explained
from fastbert_cli.models import (
    label_names_of,
    load_model,
    longest_text,
    passages,
    place,
    place_and_patch,
    precision_of,
)
from fastbert_cli.scores import progress_bars
from fastbert_cli.texts import note_cut_off, note_unknown, read_for, read_without_labels
from fastbert_hf.calibration import (
    Calibration,
    Clock,
    ExitRecords,
    Objective,
    TemperatureScaling,
    calibrate_and_compare,
    calibrate_to_latency,
    check_samples,
    fold_temperatures,
    model_fingerprint,
    record_exits,
    scale_temperatures,
    split_rows,
)
from fastbert_hf.calibration.f1_guarantee import check_f1_samples
from fastbert_hf.calibration.guarantee import TESTED_BESIDE_TEMPERATURES
from fastbert_hf.calibration.one_speed import asked_layers
from fastbert_hf.calibration.search import check_criterion
from fastbert_hf.calibration.temperature import check_foldable
from fastbert_hf.data import TextData, TokenisedDataset, select_texts
from fastbert_hf.exits.fingerprint import is_of
from fastbert_hf.files import files_replaced
from fastbert_hf.machine import describe_machine
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.progress import Progress

_RECORDING_BATCH = 32


def run_calibrate(options: Calibrate) -> None:
    """Print what was found and, unless it is a dry run, write it into the model's folder.

    Raises:
        CommandError: a target, options, samples or a model that cannot be used.
        DataFileError: the file or data set cannot be used, or has labels that the model does not know.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    objective = _objective(options)
    model, tokenizer = load_model(options.model)
    if not options.dry_run and not os.access(options.model, os.W_OK):  # known before the work, not after it
        raise CommandError(
            f"{options.model}: cannot be written into; copy the model, or see the setting with --dry-run"
        )
    model.calibrated_setting = None  # the one to be replaced
    with options_named():
        _check_model(model, options)
        max_length = longest_text(model, tokenizer, options.max_length)
        data, labels = _read(options, model)
        options = with_search(options, objective, len(data))
        # Before the model runs over all of it.
        check_samples(len(data), labels, objective, options.confidence, options.search, options.temperature_scaling)
        if objective.max_f1_drop is not None and labels is not None:
            tested = labels
            if options.temperature_scaling:
                tested = labels[split_rows(len(labels), TESTED_BESIDE_TEMPERATURES, options.split_seed)[1]]
            names = label_names_of(model)
            orders = len(asked_layers(tuple(model.config.exit_layers[:-1])))
            check_f1_samples(
                tested, model.num_labels, objective.max_f1_drop, options.confidence, names, sequences=orders
            )
        dataset = TokenisedDataset(data, tokenizer, max_length)
        stride = passages(model, tokenizer, max_length, options.stride)
        if stride is not None and dataset.truncated:
            raise CommandError(
                f"{dataset.truncated:,} of {len(data):,} texts are longer than {max_length} tokens, and this model "
                f"reads such texts in passages (--stride {stride}), for whose mean no setting can be guaranteed: leave "
                "them out, raise --max-length, or calibrate for texts that are cut off with --stride none"
            )
        note_cut_off(dataset.truncated, max_length)
        note_unknown(dataset, tokenizer)
        if options.dtype is None and (options.backend is None or options.latency_ms is not None):
            place(model, options.patching.backend)  # recorded as it is; a clock patches it later
        else:
            place_and_patch(model, options.patching)
        records = _records(options, model, dataset)
        scaling = None
        if options.temperature_scaling:
            scaling = scale_temperatures(records, seed=options.split_seed)
            report.note_bounds(scaling)
            fitting = split_rows(len(data), TESTED_BESIDE_TEMPERATURES, options.split_seed)[0]
            fold_temperatures(model, scaling.temperatures, select_texts(data, fitting.tolist()))
            records = replace(scaling.records, fingerprint=model_fingerprint(model))
        calibration = _calibrate(options, objective, model, dataset, records)
        calibration = replace(calibration, setting=replace(calibration.setting, max_length=max_length))
    if not options.dry_run:
        with faults_explained(f"{options.model} cannot be written"):
            _save(options.model, model, calibration, scaling)
    _report(options, model, records, calibration, scaling, tokenised_to=max_length)


def _objective(options: Calibrate) -> Objective:
    with options_named():
        return Objective(
            max_drop=options.max_drop,
            max_disagreement=options.allowed_disagreement,
            max_f1_drop=options.max_f1_drop,
            min_speedup=options.min_speedup,
            max_latency_ms=options.latency_ms,
            max_score_change=options.max_score_change,
        )


def _read(options: Calibrate, model: FastBertForSequenceClassification) -> tuple[TextData, torch.Tensor | None]:
    """Return the texts, and the class id of each where the target is about labels, int64 [texts]."""
    source, leave_out = options.texts.data, options.leave_out_seen
    guaranteed = options.target in ("--max-drop", "--max-disagreement", "--max-f1-drop")
    if not options.reads_labels(not (model.config.multi_label or model.config.gives_scores)):
        texts = read_without_labels(options.texts)
        return unseen_texts(model, texts, source, guaranteed=guaranteed, leave_out=leave_out), None
    labelled = unseen_texts(model, read_for(model, options.texts), source, guaranteed=guaranteed, leave_out=leave_out)
    return labelled, torch.tensor(labelled.label_ids)


def _check_model(model: FastBertForSequenceClassification, options: Calibrate) -> None:
    if model.config.multi_label and options.target in ("--max-drop", "--max-f1-drop"):
        raise CommandError(
            f"this model is multi-label, and {options.target} is for models that give a text exactly one class; use "
            "--max-disagreement, which bounds what any accuracy can lose"
        )
    if len(model.student_classifiers) == 0:
        raise CommandError(
            "this model has no student classifiers, so no text can leave early; train it with more --exit-layers"
        )
    check_criterion(options.criteria, model.num_labels, model.config.problem_type)
    if options.temperature_scaling:
        check_foldable(model)


def _records(options: Calibrate, model: FastBertForSequenceClassification, dataset: TokenisedDataset) -> ExitRecords:
    """Those of `options.records` if they are there, else those of a pass of the model, which are written there."""
    path = options.records
    if path is not None and path.exists():
        records = ExitRecords.load(path)
        if dataset.label_ids is not None and records.labels is None:  # recorded for a target without labels
            records = replace(records, labels=torch.tensor(dataset.label_ids))
        labels = None if records.labels is None or dataset.label_ids is None else records.labels.tolist()
        known = (labels, records.texts) == (dataset.label_ids, dataset.fingerprint)
        other = "other weights than this model has" if not is_of(records.fingerprint, model) else None
        if (records.precision or precision_of(model)) != precision_of(model):
            other = f"precision {records.precision}, and this run is in {precision_of(model)}"
        if not known:
            other = "other texts or labels"
        if other is not None:
            raise CommandError(f"--records {path}: recorded with {other}; delete the file or name another")
        return records
    with progress_bars() as advance:
        records = record_exits(model, dataset, _RECORDING_BATCH, advance)
    if path is not None:
        records.save(path)
    return records


def _calibrate(
    options: Calibrate,
    objective: Objective,
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    records: ExitRecords,
) -> Calibration:
    if objective.max_latency_ms is None:
        return calibrate_and_compare(
            records,
            objective,
            confidence=options.confidence,
            search=options.search,
            criterion=options.criteria,
            temperatures_fitted=options.temperature_scaling,
            seed=options.split_seed,
        )
    if objective.max_score_change is not None:
        records = records.with_max_score_change(objective.max_score_change)
    with progress_bars() as advance:
        return calibrate_to_latency(
            records,
            objective.max_latency_ms,
            _clock(options, model, dataset, advance),
            confidence=options.confidence,
            search=options.search,
            criterion=options.criteria,
        )


def _clock(
    options: Calibrate, model: FastBertForSequenceClassification, dataset: TokenisedDataset, advance: Progress
) -> Clock:
    patched = fastbert_kernels.is_patched(model) or place_and_patch(model, options.patching)
    return Clock.of(
        model,
        dataset,
        options.batch_size or 1,
        seed=options.split_seed,
        precision=f"{precision_of(model)}, {'on the fast kernels' if patched else 'without the fast kernels'}",
        progress=advance,
    )


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
    options: Calibrate,
    model: FastBertForSequenceClassification,
    records: ExitRecords,
    calibration: Calibration,
    scaling: TemperatureScaling | None,
    *,
    tokenised_to: int,
) -> None:
    if not options.as_json:
        saved = None if options.dry_run else options.model
        names = label_names_of(model)
        report.show(Console(highlight=False, soft_wrap=True), records, calibration, scaling, names, saved)
        return
    setting = asdict(calibration.setting)
    del setting["curve"]  # the file has it
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "model": str(options.model),
        "data": options.texts.data,
        "texts": len(records),
        "max_length": tokenised_to,
        "saved": not options.dry_run,
        "setting": setting,
        "compared": [asdict(found) for found in calibration.compared],
        "temperature_scaling": None if scaling is None else report.as_values(scaling),
    }
    print(json.dumps(results, indent=2, ensure_ascii=False))

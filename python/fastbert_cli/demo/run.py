"""`fastbert demo`: from raw text to a patched FastBERT that is measurably faster."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from fastbert_cli.demo import report
from fastbert_cli.demo.command import Demo
from fastbert_cli.demo.measurement import BATCH_SIZE, measure
from fastbert_cli.errors import CommandError, shell_command
from fastbert_cli.models import make_model
from fastbert_hf.analysis import train_bag_of_words, verdict
from fastbert_hf.data import ClassificationData, TokenisedDataset, read_classification_file
from fastbert_hf.docstrings import build_docstring_dataset
from fastbert_hf.files import folder_written_atomically, sole_writer
from fastbert_hf.machine import computes_in_bfloat16, describe_machine
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training import DISTILLATION, FINE_TUNING, distill, fine_tune
from fastbert_hf.training.frozen_states import CacheShape, check_cache_size


def run_demo(options: Demo) -> None:
    """Train, distill, patch, measure and write `options.out`.

    Raises:
        CommandError: a backbone that cannot be used, or patched answers that differ from the unpatched ones.
        DataFileError: a file cannot be used.
    """
    logging.set_verbosity_error()
    options.out.mkdir(parents=True, exist_ok=True)
    with sole_writer(options.out / "demo"):
        _run(options, Console())


def _run(options: Demo, console: Console) -> None:
    begin = time.perf_counter()
    console.rule("1. Data")
    train, test = load_data(options)
    console.print(f"{len(train)} texts to train on, {len(test)} to measure on, classes: {', '.join(train.label_names)}")

    console.rule("2. Training: fine-tune backbone and teacher, then distill the students")
    model, tokenizer = make_model(options.backbone, train, options.seed)
    training = train_model(options, console, model, tokenizer, train)
    with folder_written_atomically(options.out / "model") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    console.rule("3. Exits, accuracy and times, patched and unpatched, interleaved")
    dataset = TokenisedDataset(test, tokenizer, options.max_length)
    measured = measure(model, dataset, options.speeds, options.timed, options.rounds)
    bag = train_bag_of_words(train).answers(test)
    found = verdict(measured.records, bag=bag.predictions)

    results = {
        "machine": describe_machine(),
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()},
        "data": {
            "source": str(options.train) if options.train else "docstrings",
            "classes": train.label_names,
            "train": len(train),
            "test": len(test),
            "mean_tokens": sum(dataset.lengths) / len(dataset),
        },
        "training": training,
        "layers": len(model.heads),
        "timed_texts": measured.timed_texts,
        "batch_size": BATCH_SIZE,
        "agreement": {name: asdict(found) for name, found in measured.agreement.items()},
        "rows": measured.rows,
        "verdict": asdict(found) | {"sentence": found.sentence, "unit": bag.unit},
        "seconds_in_all": time.perf_counter() - begin,
    }
    console.rule("4. Result")
    report.write(console, options.out, results, measured.records, test)
    console.print(
        f"to choose a Speed for it: {shell_command('fastbert', 'calibrate', options.out / 'model')} --data FILE "
        "--max-drop 0.01, with labelled texts that it was not trained on",
        soft_wrap=True,
        markup=False,
    )
    if not measured.agreement["patched"].is_close:
        raise CommandError(
            "patched and unpatched answers differ, so no speed-up is reported; see results.json, agreement"
        )


def load_data(options: Demo) -> tuple[ClassificationData, ClassificationData]:
    """Return the user's two files, or the docstrings."""
    if options.train is not None and options.dev is not None:
        train = read_classification_file(options.train)
        return train, read_classification_file(options.dev, train.label_names)
    try:
        docstrings = build_docstring_dataset(seed=options.seed)
    except ModuleNotFoundError as error:
        raise CommandError(str(error)) from error
    return docstrings.train, docstrings.test


def train_model(
    options: Demo,
    console: Console,
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    train: ClassificationData,
) -> dict[str, Any]:
    """Run both steps and return their losses and times."""
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if computes_in_bfloat16() else "fp32"
    common: dict[str, Any] = {"precision": precision, "max_length": options.max_length, "seed": options.seed}
    console.print(f"step 1, fine-tuning in {precision}")
    first = fine_tune(
        model, tokenizer, train, replace(FINE_TUNING, epochs=options.epochs, learning_rate=1e-4, **common)
    )
    console.print(f"step 2, self-distillation in {precision}")
    folder = cache_folder(options, model, len(train))
    cached = replace(DISTILLATION, epochs=options.distil_epochs, cache_dir=folder, **common)
    second = distill(model, tokenizer, train, cached)
    return {"precision": precision, "fine_tuning": asdict(first), "distillation": asdict(second)}


def cache_folder(options: Demo, model: FastBertForSequenceClassification, texts: int) -> Path | None:
    """Return where distillation keeps the frozen states, so that the backbone runs once per text instead of once per
    text and epoch, or `None` where they might not fit."""
    dtype = getattr(torch, DISTILLATION.cache_dtype)
    students = len(model.student_classifiers)
    longest = CacheShape([options.max_length] * texts, students, model.config.hidden_size, model.num_labels, dtype)
    try:
        check_cache_size(longest, options.out, DISTILLATION.cache_limit_gb)
    except ValueError:
        return None
    return options.out

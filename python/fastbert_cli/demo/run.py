"""`fastbert demo`: from raw text to a patched FastBERT that is measurably faster."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from fastbert_cli import measure
from fastbert_cli.demo import report
from fastbert_cli.demo.command import Demo
from fastbert_cli.errors import CommandError, shell_command
from fastbert_cli.models import make_model
from fastbert_hf.data import ClassificationData, TokenisedDataset, read_classification_file
from fastbert_hf.docstrings import build_docstring_dataset
from fastbert_hf.files import folder_written_atomically
from fastbert_hf.machine import computes_in_bfloat16, describe_machine
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training import DISTILLATION, FINE_TUNING, distil, fine_tune

BATCH_SIZE = 32


def run_demo(options: Demo) -> dict[str, Any]:
    """Trains, distils, patches, measures and writes `options.out`; returns what it wrote as `results.json`."""
    begin = time.perf_counter()
    console = Console()
    speeds = tuple(sorted(set(options.speed)))
    if any(not 0 < speed <= 1 for speed in speeds):
        raise CommandError("every --speed must be above 0 and at most 1")
    transformers.utils.logging.set_verbosity_error()
    options.out.mkdir(parents=True, exist_ok=True)

    console.rule("1. Data")
    train, test = load_data(options)
    console.print(f"{len(train)} texts to train on, {len(test)} to measure on, classes: {', '.join(train.label_names)}")

    console.rule("2. Training: fine-tune backbone and teacher, then distil the students")
    model, tokenizer = make_model(options.backbone, train, options.seed)
    training = train_model(options, console, model, tokenizer, train)
    with folder_written_atomically(options.out / "model") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    console.rule("3. Accuracy and exits")
    dataset = TokenisedDataset(test, tokenizer, options.max_length)
    every = measure.run_all_exits(model, dataset, BATCH_SIZE, _bar("every exit of every text"))

    console.rule("4. Patched and unpatched, interleaved")
    timed = max(BATCH_SIZE, min(options.timed, len(test)) // BATCH_SIZE * BATCH_SIZE)
    batches = list(dataset.batches(BATCH_SIZE))[: timed // BATCH_SIZE]
    variants = measure.make_variants(model, bfloat16=computes_in_bfloat16())
    agreement = measure.check_agreement(variants, batches[:4], speeds, _bar("same answers?"))
    agrees = agreement["patched"]["exit_layers"] == 1 and agreement["patched"]["labels"] >= 0.99
    depths = (None, *speeds)
    accuracy = measure.run_accuracy(variants, dataset, depths, BATCH_SIZE, _bar("accuracy"))
    timings = measure.time_variants(variants, batches, depths, options.rounds, _bar("timing"))

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
        "timed_texts": sum(len(batch["input_ids"]) for batch in batches),
        "batch_size": BATCH_SIZE,
        "agreement": agreement,
        "rows": make_rows(model, speeds, every, accuracy, timings, timed, agrees),
        "seconds_in_all": time.perf_counter() - begin,
    }
    console.rule("5. Result")
    report.write(options.out, results, report.pick_examples(test, every, speed=0.5))
    report.show(console, options.out, results)
    console.print(
        f"to choose a Speed for it: {shell_command('fastbert', 'calibrate', options.out / 'model')} --data FILE "
        "--max-drop 0.01, with labelled texts that it was not trained on",
        soft_wrap=True,
        markup=False,
    )
    if not agrees:
        raise CommandError(
            "patched and unpatched answers differ, so no speed-up is reported; see results.json, agreement"
        )
    return results


def load_data(options: Demo) -> tuple[ClassificationData, ClassificationData]:
    """The user's two files, or the docstrings."""
    if (options.train is None) != (options.dev is None):
        raise CommandError("--train and --dev go together: one file to train on, one to measure on")
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
    """Both steps; returns their losses and times."""
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if computes_in_bfloat16() else "fp32"
    common: dict[str, Any] = {"precision": precision, "max_length": options.max_length, "seed": options.seed}
    console.print(f"step 1, fine-tuning in {precision}")
    first = fine_tune(
        model, tokenizer, train, replace(FINE_TUNING, epochs=options.epochs, learning_rate=1e-4, **common)
    )
    console.print(f"step 2, self-distillation in {precision}")
    second = distil(model, tokenizer, train, replace(DISTILLATION, epochs=options.distil_epochs, **common))
    return {"precision": precision, "fine_tuning": asdict(first), "distillation": asdict(second)}


def make_rows(
    model: FastBertForSequenceClassification,
    speeds: tuple[float, ...],
    every: measure.AllExits,
    accuracy: dict[tuple[str, float | None], float],
    timings: dict[tuple[str, measure.Depth], measure.Timing],
    timed: int,
    agrees: bool,
) -> list[dict[str, Any]]:
    """One row for full depth and one per Speed, with figures per variant.

    Accuracy and mean exit layer are over all texts, times and the FLOPs speed-up beside them over the first `timed`.
    Speed-ups are left out when the answers do not agree.
    """
    rows = []
    for speed in (None, *speeds):
        exit_layers = every.exit_layers(speed)
        flops = 1.0
        if speed is not None:
            flops = measure.measured_flops_speedup(model, exit_layers[:timed], every.lengths[:timed])
        variants: dict[str, dict[str, Any]] = {}
        for name in dict.fromkeys(name for name, _ in timings):
            timing = timings[name, speed]
            variants[name] = {"accuracy": accuracy[name, speed], "seconds": timing.rounds}
            if agrees:
                variants[name]["speedup"] = measure.ratio(timings["unpatched", None], timing)
                variants[name]["realisation"] = measure.ratio(timings[name, None], timing) / flops
        rows.append(
            {
                "speed": speed,
                "mean_exit_layer": exit_layers.double().mean().item(),
                "flops_speedup": flops,
                "variants": variants,
            }
        )
    return rows


def _bar(description: str) -> measure.Track:
    def tracked(items: Iterable[Any]) -> Iterable[Any]:
        return track(items, description=description)

    return tracked

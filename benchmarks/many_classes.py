"""What many classes do to the uncertainty of a FastBERT, and which criterion and calibration helps.

    python benchmarks/many_classes.py [--run FOLDER] [--epochs 6] [--rows 9000]

Trains the packaged 6-layer MiniLM in the paper's two steps on docstrings, whose classes are the about 95 modules that
they were written for (`module_docstrings.py`), records what every exit head answers on the dev and the test part, and
compares the criteria on the records: curves on the test part, and settings chosen on the dev part with what they give
on the test part.

The run folder keeps models and records; what is finished is not run again, and an interrupted step goes on from its
last epoch. Results are written to `--out` as many_classes_cpu.json, .md and .png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from criteria.chart import draw
from criteria.figures import compare
from criteria.tables import markdown
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.calibration import ExitRecords, record_exits
from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.files import folder_written_atomically, write_atomically
from fastbert_hf.machine import computes_in_bfloat16, describe_machine
from fastbert_hf.training import DistillationSettings, LabelSettings, TrainingResult, distill, fine_tune
from harness import RESULTS, save
from module_docstrings import ModuleDocstrings, build_module_docstrings
from run_folders import open_run
from training import Task, first_rows, make_model, rearranged

NAME = "many_classes_cpu"
TASK = Task(max_length=40, epochs=4, distil_epochs=6, learning_rate=2e-4, train_rows=6000)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("many-classes-out"), help="folder of models and records")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON, the tables and the chart")
    parser.add_argument("--seed", type=int, default=0, help="of the data, the fresh heads and the training")
    parser.add_argument("--rows", type=int, default=TASK.train_rows, help="training samples at most")
    parser.add_argument("--epochs", type=float, default=TASK.epochs, help="of fine-tuning")
    parser.add_argument("--distil-epochs", type=float, default=TASK.distil_epochs, help="of self-distillation")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(argv)
    transformers.utils.logging.set_verbosity_error()
    console = Console()
    description = describe(options)
    open_run(options.run, description)
    if not all(records_path(options.run, part).exists() for part in ("dev", "test")):
        train_and_record(options.run, description, console)
    console.rule("criteria")
    dev, test = (ExitRecords.load(records_path(options.run, part)) for part in ("dev", "test"))
    with Progress(console=console) as progress:
        bar = progress.add_task("comparing", total=None)
        compared = compare(dev, test, lambda doing: progress.update(bar, description=doing))
    trained = json.loads((options.run / "training.json").read_text(encoding="utf-8"))
    result = {"settings": description, **trained, **compared}
    save(options.out, NAME, result, markdown(result))
    draw(result, options.out / f"{NAME}.png")
    console.print(markdown(result), markup=False)


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Return what decides the result, and so has to be the same when a run goes on."""
    return {
        "seed": options.seed,
        "rows": options.rows,
        "epochs": options.epochs,
        "distil_epochs": options.distil_epochs,
        "learning_rate": TASK.learning_rate,
        "max_length": TASK.max_length,
        "precision": "bf16" if computes_in_bfloat16() else "fp32",
    }


def records_path(folder: Path, part: str) -> Path:
    return folder / f"{part}.safetensors"


def train_and_record(folder: Path, description: dict[str, Any], console: Console) -> None:
    """Both training steps, then the records of dev and test; what is in `folder` already is left as it is."""
    console.rule("docstrings")
    with Progress(console=console) as progress:
        bar = progress.add_task("reading", total=None)
        data = build_module_docstrings(
            seed=description["seed"], progress=lambda name: progress.update(bar, description=f"reading {name}")
        )
    train = first_rows(data.train, description["rows"], description["seed"])
    model, tokenizer = make_model(TASK, train, description["seed"])
    # Nothing can be guaranteed by texts that chose the epoch.
    choosing, dev = (rearranged(data.dev, list(range(first, len(data.dev), 2))) for first in range(2))
    steps = train_both_steps(model, tokenizer, train, choosing, folder, description, console)
    console.rule("recording")
    for part, samples in (("dev", dev), ("test", data.test)):
        dataset = TokenisedDataset(samples, tokenizer, description["max_length"])
        with Progress(console=console) as bars:
            bar = bars.add_task(part)
            records = record_exits(
                model,
                dataset,
                progress=lambda _, done, total, bars=bars, bar=bar: bars.update(bar, completed=done, total=total),
            )
        # The last file marks the end of training, so what belongs to it is written before.
        write_atomically(folder / "training.json", json.dumps(summary(data, train, steps), indent=1) + "\n")
        records.save(records_path(folder, part))


def train_both_steps(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    train: ClassificationData,
    dev: ClassificationData,
    folder: Path,
    description: dict[str, Any],
    console: Console,
) -> dict[str, TrainingResult]:
    """Fine-tune and distill `model`, each from its last checkpoint in `folder` where there is one."""
    common: dict[str, Any] = {name: description[name] for name in ("precision", "max_length", "seed")}
    labels = LabelSettings(epochs=description["epochs"], learning_rate=description["learning_rate"], **common)
    console.rule("fine-tuning")
    run = folder / "fine_tune"
    first = fine_tune(model, tokenizer, train, labels, dev=dev, run_dir=run, resume=(run / "run.json").exists())
    console.rule("self-distillation")
    run = folder / "distil"
    settings = DistillationSettings(epochs=description["distil_epochs"], cache_dir=folder / "cache", **common)
    (folder / "cache").mkdir(exist_ok=True)
    second = distill(model, tokenizer, train, settings, run_dir=run, resume=(run / "run.json").exists())
    with folder_written_atomically(folder / "model") as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return {"fine_tune": first, "distil": second}


def summary(data: ModuleDocstrings, train: ClassificationData, steps: dict[str, TrainingResult]) -> dict[str, Any]:
    """Return what is said about data and training in the result file."""
    return {
        "data": {
            "classes": data.train.label_names,
            "samples": {"train": len(train), "dev": len(data.dev) // 2, "test": len(data.test)},
            "versions": data.versions,
            "sha256": data.checksum,
        },
        "trained_on": describe_machine(),
        # Not a benchmark: beside other work. Of a run that was interrupted only the last part.
        "seconds": {name: step.seconds for name, step in steps.items()},
        "epochs": {name: step.epochs for name, step in steps.items()},
    }


if __name__ == "__main__":
    begin = time.perf_counter()
    main()
    print(f"{(time.perf_counter() - begin) / 60:.1f} minutes")

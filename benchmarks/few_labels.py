#!/usr/bin/env python
"""Few labels: students that learn from the teacher on unlabelled texts, against students that learn from the labels.

    python benchmarks/few_labels.py --data FOLDER [--run FOLDER] [--labels 200 500 1000] [--unlabelled 3000]
                                    [--seeds 1] [--backbone e5-small] [--quick]

FOLDER holds ag_news with train.tsv and test.tsv. For each number of labels a teacher is fine-tuned on so many texts,
and on its frozen backbone three sets of students learn, from the same fresh heads and in as many steps (whole epochs):
`soft` from the teacher's answers on the labelled texts and on all others (or --unlabelled of them) without their
labels, `soft_labelled` from the teacher's answers on the labelled texts alone, and `hard` from their labels. No
development texts choose anything: who has few labels has none to spare. A bag of words learns from the same labels.
Recorded answers of every head on the test texts give the whole curve of accuracy against FLOPs.

The run folder keeps teachers and records; what is there is not made again, so that a stopped run goes on, in the
middle of students that learn from all texts at their last epoch. Writes few_labels_cpu.json, .md and .png, also of the
numbers that are done so far.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer

import fastbert_kernels
from criteria.figures import Contender, Curve, differences
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.analysis import train_bag_of_words
from fastbert_hf.calibration import ExitRecords, record_exits, speed_curve
from fastbert_hf.data import ClassificationData, TokenisedDataset, join_texts, read_classification_file, select_texts
from fastbert_hf.files import folder_written_atomically
from fastbert_hf.machine import computes_in_bfloat16
from fastbert_hf.training import DistillationSettings, distill, fine_tune
from harness import RESULTS, markdown_table, save
from pretrained import ENCODERS
from run_folders import SMALL, digest_of, open_run
from trained.figures import scores
from trained.steps import goes_on
from training import TASKS, label_settings, make_model

NAME, TASK = "few_labels_cpu", "ag_news"
STUDENTS = ("soft", "soft_labelled", "hard")
BASELINE = "hard"
IN_WORDS = {
    "soft": "teacher, all texts",
    "soft_labelled": "teacher, labelled texts",
    "hard": "labels",
}
SPEEDUPS = (1.5, 2.0, 3.0, 4.0, 5.0)
COMPARED = np.linspace(1.5, 4.0, 26)  # speed-ups over which mean accuracies are compared
CURVE_SPEEDS = 60
FEWEST_EPOCHS = 3


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        unlabelled: texts without labels at most, of the rest; `None` for all of them.
        test: texts at most.
        teacher_steps: optimiser steps of step 1 at least, in whole epochs.
        student_steps: the same of step 2; three epochs of all texts of AG News.
    """

    unlabelled: int | None = None
    test: int = 2000
    teacher_steps: int = 80
    student_steps: int = 837


QUICK = Sizes(unlabelled=24, test=40, teacher_steps=2, student_steps=2)


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts of one number of labels and one seed."""

    labelled: ClassificationData
    unlabelled: ClassificationData
    test: ClassificationData

    @classmethod
    def read(cls, folder: Path, labels: int, seed: int, sizes: Sizes) -> Texts:
        """Return the first texts of a shuffle as those with labels, and others of it as those without.

        Raises:
            SystemExit: there are no more texts than labels are asked for.
        """
        train = read_classification_file(folder / "train.tsv")
        test = read_classification_file(folder / "test.tsv", train.label_names)
        if labels >= len(train):
            raise SystemExit(f"{folder / 'train.tsv'} has {len(train)} rows; ask for fewer labels than that")
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
        kept = torch.randperm(len(test), generator=torch.Generator().manual_seed(0)).tolist()[: sizes.test]
        rest = order[labels:][: sizes.unlabelled]
        return cls(select_texts(train, order[:labels]), select_texts(train, rest), select_texts(test, kept))


def epochs_for(texts: int, steps: int, batch_size: int = 32) -> int:
    """Return the whole epochs that take so many steps, 3 at least."""
    return max(FEWEST_EPOCHS, math.ceil(steps / math.ceil(texts / batch_size)))


def teacher_of(folder: Path, texts: Texts, seed: int, backbone: str, sizes: Sizes) -> tuple[Any, Any]:
    """Return the fine-tuned model with fresh students, made now or before, and its tokenizer."""
    if not folder.exists():
        model, tokenizer = make_model(TASKS[TASK], texts.labelled, seed, backbone)
        settings = label_settings(TASKS[TASK], model, common_settings(seed))
        epochs = epochs_for(len(texts.labelled), sizes.teacher_steps)
        fine_tune(model, tokenizer, texts.labelled, dataclasses.replace(settings, epochs=epochs))
        with folder_written_atomically(folder) as written:
            model.save_pretrained(written)
            tokenizer.save_pretrained(written)
    return FastBertForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def common_settings(seed: int) -> dict[str, Any]:
    """Return what both steps have in common."""
    precision = "bf16" if computes_in_bfloat16() else "fp32"
    return {"precision": precision, "max_length": TASKS[TASK].max_length, "seed": seed}


def records_of(folder: Path, students: str, texts: Texts, seed: int, backbone: str, sizes: Sizes) -> ExitRecords:
    """Return what every head of one kind of students answers to the test texts, from the folder or recorded now."""
    path, steps = folder / f"{students}.safetensors", folder / "steps" / students
    if not path.exists():
        model, tokenizer = teacher_of(folder / "teacher", texts, seed, backbone, sizes)
        learnt = join_texts(texts.labelled, texts.unlabelled) if students == "soft" else texts.labelled
        settings = DistillationSettings(
            epochs=epochs_for(len(learnt), sizes.student_steps),
            targets="hard" if students == "hard" else "soft",
            cache_dir=folder / "cache",
            **common_settings(seed),
        )
        # Of few texts an epoch takes seconds, and a checkpoint of it as long.
        kept = goes_on(steps) if students == "soft" else {}
        distill(model, tokenizer, learnt, settings, **kept)
        fastbert_kernels.patch(model, dtype=torch.float32)
        record_exits(model, TokenisedDataset(texts.test, tokenizer, TASKS[TASK].max_length)).save(path)
        shutil.rmtree(steps, ignore_errors=True)
    return ExitRecords.load(path)


def run_labels(labels: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rows of one number of labels, and what a bag of words reaches with as many."""
    texts = Texts.read(options.data / TASK, labels, seed, options.sizes)
    folder = options.run / f"{options.backbone}-{labels}-{seed}"
    parts = {part.name: digest_of(getattr(texts, part.name)) for part in dataclasses.fields(texts)}
    open_run(folder, {"sizes": dataclasses.asdict(options.sizes), "texts": parts, **common_settings(seed)})
    found = {}
    for students in STUDENTS:
        print(f"{labels} labels, seed {seed}: students from {IN_WORDS[students]}", flush=True)
        found[students] = records_of(folder, students, texts, seed, options.backbone, options.sizes)
    curves = {students: Curve(records, Contender("entropy"), COMPARED) for students, records in found.items()}
    compared = differences(curves, BASELINE)
    bag = train_bag_of_words(texts.labelled)
    about = {"task": TASK, "backbone": options.backbone, "labels": labels, "seed": seed}
    samples = {"train": labels, "unlabelled": len(texts.unlabelled), "test": len(texts.test)}
    return {
        "rows": [
            {**about, "students": students, "samples": samples, **scores(records), **_curve(records)}
            | {"mean_accuracy": compared[students]}
            for students, records in found.items()
        ],
        "bag": {
            **about,
            "samples": samples,
            "accuracy": float(np.mean(bag.predict(texts.test) == texts.test.label_ids)),
        },
    }


def _curve(records: ExitRecords) -> dict[str, Any]:
    """Return the curve over all Speeds, and accuracies at round FLOPs speed-ups, on straight lines between Speeds."""
    curve = speed_curve(records, limit=CURVE_SPEEDS)
    order = np.argsort(curve.flops_speedup)
    speedups, accuracies = np.asarray(curve.flops_speedup)[order], np.asarray(curve.accuracy)[order]
    at = {f"{x:g}": float(np.interp(x, speedups, accuracies)) if x <= speedups[-1] else None for x in SPEEDUPS}
    return {"curve": {"flops_speedup": speedups.tolist(), "accuracy": accuracies.tolist()}, "accuracy_at": at}


def table(result: dict[str, Any]) -> str:
    """Return the page beside the JSON file."""
    sizes = result["sizes"]
    parts = [
        "# Few labels",
        f"AG News, {result['rows'][0]['samples']['test']:,} test texts. Teachers: {sizes['teacher_steps']} steps or "
        f"{FEWEST_EPOCHS} epochs on the labelled texts, students {sizes['student_steps']} steps each, from the same "
        "fresh heads; no development texts. Accuracy at a FLOPs speed-up (paper's convention), on straight lines "
        "between Speeds; the last column is the mean accuracy between 1.5x and 4x less that of the students from "
        "labels, with a 95 % interval over the test texts.",
    ]
    for labels, seed, backbone in dict.fromkeys(
        (row["labels"], row["seed"], row["backbone"]) for row in result["rows"]
    ):
        key = {"labels": labels, "seed": seed, "backbone": backbone}
        own = [row for row in result["rows"] if key.items() <= row.items()]
        (bag,) = (one for one in result["bags"] if key.items() <= one.items())
        lines = [
            {
                "students learn from": IN_WORDS[row["students"]],
                "full depth": f"{row['full_depth']['accuracy']:.1%}",
                **{f"{x}x": "-" if found is None else f"{found:.1%}" for x, found in row["accuracy_at"].items()},
                "heads alone, first to last": " ".join(f"{100 * one:.1f}" for one in row["layer_accuracy"]),
                "less labels": _difference(row),
            }
            for row in own
        ]
        parts += [
            f"## {labels} labels and {own[0]['samples']['unlabelled']:,} texts without, {backbone}, seed {seed}",
            markdown_table(lines),
            f"A bag of words with the same labels: {bag['accuracy']:.1%}.",
        ]
    return "\n\n".join(parts)


def _difference(row: dict[str, Any]) -> str:
    if row["students"] == BASELINE:
        return "-"
    low, high = row["mean_accuracy"]["interval"]
    return f"{100 * row['mean_accuracy']['difference']:+.1f} points ({100 * low:.1f} to {100 * high:.1f})"


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG with a panel for each number of labels: a curve for each kind of students and seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers = sorted({row["labels"] for row in result["rows"]})
    figure = Figure(figsize=(4.6 * len(numbers), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    styles = dict(zip(STUDENTS, (("#0072B2", "-"), ("#E69F00", "--"), ("#D55E00", "-.")), strict=True))
    for axes, labels in zip(figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0], numbers, strict=True):
        for row in (row for row in result["rows"] if row["labels"] == labels):
            colour, style = styles[row["students"]]
            accuracy = [100 * one for one in row["curve"]["accuracy"]]
            name = IN_WORDS[row["students"]] if row["seed"] == 0 else None
            axes.plot(row["curve"]["flops_speedup"], accuracy, style, color=colour, label=name)
        for bag in (bag for bag in result["bags"] if bag["labels"] == labels):
            name = "bag of words" if bag["seed"] == 0 else None
            axes.axhline(100 * bag["accuracy"], color="#000000", linestyle=":", linewidth=0.9, label=name)
        axes.set_title(f"{labels} labels", fontsize=10)
        axes.set_xlabel("FLOPs speed-up over full depth")
        axes.grid(color="#dddddd", linewidth=0.6)
    figure.axes[0].set_ylabel("test accuracy (percent)")
    figure.axes[0].legend(title="students learn from", fontsize=8, title_fontsize=8)
    figure.savefig(path, dpi=140)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--run", type=Path, default=Path("few-labels-out"), help="folder of teachers and records")
    parser.add_argument("--labels", type=int, nargs="+", default=[200, 500, 1000], help="numbers of labelled texts")
    parser.add_argument("--unlabelled", type=int, help="texts without labels at most (all the rest)")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument("--backbone", choices=(SMALL, *ENCODERS), default=SMALL, help=f"what to start from ({SMALL})")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON, the table and the chart")
    parser.add_argument("--quick", action="store_true", help="a few texts and steps; writes only to --run/quick")
    options = parser.parse_args(argv)
    if min(options.seeds, *options.labels, 1 if options.unlabelled is None else options.unlabelled) < 1:
        parser.error("--labels, --unlabelled and --seeds must be 1 or more")
    options.sizes = QUICK if options.quick else Sizes()
    if options.unlabelled is not None:
        options.sizes = dataclasses.replace(options.sizes, unlabelled=options.unlabelled)
    if options.quick:
        options.run = options.run / "quick"
    missing = [str(options.data / TASK / f"{part}.tsv") for part in ("train", "test")]
    missing = [path for path in missing if not Path(path).exists()]
    if missing:
        parser.error(f"there is no {', '.join(missing)}; choose another --data")
    return options


def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(argv)
    transformers.utils.logging.set_verbosity_error()
    path = options.out / f"{NAME}.json"
    result: dict[str, Any] = {"sizes": dataclasses.asdict(options.sizes), "rows": [], "bags": []}
    if path.exists() and not options.quick:
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["sizes"] != result["sizes"]:
            raise SystemExit(f"{path} is of other sizes; move it away or choose another --out")
        result |= {name: before[name] for name in ("rows", "bags")}
    for seed in range(options.seeds):
        for labels in options.labels:
            found = run_labels(labels, seed, options)
            key = {"backbone": options.backbone, "labels": labels, "seed": seed}
            for name, new in (("rows", found["rows"]), ("bags", [found["bag"]])):
                result[name] = [old for old in result[name] if not key.items() <= old.items()] + new
            print(table(result), flush=True)
            if not options.quick:
                save(options.out, NAME, result, table(result))
                draw(result, options.out / f"{NAME}.png")


if __name__ == "__main__":
    begin = time.perf_counter()
    main()
    print(f"{(time.perf_counter() - begin) / 60:.1f} minutes")

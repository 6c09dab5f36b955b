#!/usr/bin/env python
"""What the rule for epochs and learning rate of step 1 is worth, against a grid: classes x texts x steps x rates.

    python benchmarks/training_rules.py [--data FOLDER] [--backbone e5-small] [--minutes 30] [--sets docstrings_96 sst2]

FOLDER holds one folder per set with train.tsv and dev.tsv (sst2, ag_news, mrpc: 2 and 4 classes); docstrings_8, _32 and
_96, whose classes are modules (module_docstrings.py), need none. For every set and number of texts the backbone and the
teacher classifier are fine-tuned at each learning rate for each number of steps, and with what the rule
(`fastbert_hf.training.schedule_for`) says and the library's fixed default; the score is the accuracy of the last epoch
on up to 1,000 dev texts. Cells are run from the cheapest on, each is saved as it ends, and one that the result file
has is not run again; after --minutes no new one begins. Writes training_rules.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import transformers

from fastbert_hf.data import ClassificationData, TokenisedDataset, read_classification_file
from fastbert_hf.machine import computes_in_bfloat16
from fastbert_hf.training import FINE_TUNING, LabelSettings, evaluate, fine_tune, schedule_for
from harness import RESULTS, markdown_table, save
from module_docstrings import build_module_docstrings
from pretrained import ENCODERS
from run_folders import SMALL
from training import Task, first_rows, make_model

NAME = "training_rules"
RATES = (5e-5, 1e-4, 2e-4)
STEPS = (100, 200, 400, 800, 1600)
TEXTS = (500, 2_000, 6_000, 20_000)
MOST_EPOCHS = 30  # of a cell: beyond, few texts are learnt by heart
DEV = 1_000
BATCH = FINE_TUNING.batch_size
DOCSTRINGS = {"docstrings_8": 8, "docstrings_32": 32, "docstrings_96": 96}
# Tokens at which texts are cut off, and their mean, by which cells are ordered.
FILES = {"sst2": (64, 14), "mrpc": (96, 55), "ag_news": (64, 52)}
DOCSTRING_TOKENS = (40, 20)
WIDTHS = {SMALL: 384, "e5-small": 384, "e5-small-enpt": 384, "mpnet-base": 768}


class Parts(NamedTuple):
    """Labelled texts to train on and to score on."""

    train: ClassificationData
    dev: ClassificationData


@dataclass(frozen=True)
class Cell:
    """One training: of how many texts of a set, for how many epochs, at which learning rate."""

    name: str
    texts: int
    epochs: float
    rate: float
    backbone: str

    @property
    def steps(self) -> int:
        return math.ceil(self.epochs * math.ceil(self.texts / BATCH))

    @property
    def cost(self) -> float:
        """Return tokens that are computed, times the width of the backbone, which order the cells."""
        _, tokens = FILES.get(self.name, DOCSTRING_TOKENS)
        depth = 1 if self.backbone == SMALL else 2
        return self.steps * BATCH * tokens * depth * WIDTHS[self.backbone] ** 2

    @property
    def key(self) -> dict[str, Any]:
        return {
            "set": self.name,
            "texts": self.texts,
            "epochs": self.epochs,
            "rate": self.rate,
            "backbone": self.backbone,
        }


@cache
def _docstrings(classes: int) -> Parts:
    """Return the samples of so many of the modules, evenly over the list of them."""
    data = build_module_docstrings()
    names = data.train.label_names
    chosen = names if classes >= len(names) else [names[number * len(names) // classes] for number in range(classes)]
    number_of = {names.index(name): number for number, name in enumerate(chosen)}

    def part(samples: ClassificationData) -> ClassificationData:
        pairs = zip(samples.texts, samples.label_ids, strict=True)
        kept = [(text, number_of[label]) for text, label in pairs if label in number_of]
        return ClassificationData([text for text, _ in kept], None, [label for _, label in kept], list(chosen))

    return Parts(part(data.train), part(data.dev))


@cache
def _from_files(folder: Path) -> Parts:
    train = read_classification_file(folder / "train.tsv")
    return Parts(train, read_classification_file(folder / "dev.tsv", train.label_names))


def parts_of(name: str, data: Path | None) -> Parts:
    """Return the texts of a set.

    Raises:
        SystemExit: it is in files, and no folder of them is given.
    """
    if name in DOCSTRINGS:
        return _docstrings(DOCSTRINGS[name])
    if data is None:
        raise SystemExit(f"{name} is read from files: give --data FOLDER, or leave it out of --sets")
    return _from_files(data / name)


def cells_of(name: str, parts: Parts, backbone: str) -> Iterator[Cell]:
    """Yield every cell of a set: the grid, what the rule says, and the library's fixed default."""
    sizes = [size for size in TEXTS if size < len(parts.train)]
    for texts in [*sizes, *([len(parts.train)] if len(parts.train) <= TEXTS[-1] else [])]:
        an_epoch = math.ceil(texts / BATCH)
        found = [Cell(name, texts, FINE_TUNING.epochs, FINE_TUNING.learning_rate, backbone)]
        found.append(by_rule(name, texts, len(parts.train.label_names), backbone))
        lengths = [steps / an_epoch for steps in STEPS if 1 <= steps / an_epoch <= MOST_EPOCHS]
        # Rounded down, so that the last step is not one more.
        found += [Cell(name, texts, math.floor(1e3 * one) / 1e3, rate, backbone) for one in lengths for rate in RATES]
        yield from dict.fromkeys(found)


def by_rule(name: str, texts: int, classes: int, backbone: str) -> Cell:
    """Return the cell of the rule."""
    schedule = schedule_for(texts, classes, WIDTHS[backbone], BATCH)
    return Cell(name, texts, schedule.epochs, schedule.learning_rate, backbone)


def train(cell: Cell, parts: Parts, seed: int) -> dict[str, Any]:
    """Return the accuracy on dev after the training of a cell."""
    longest, _ = FILES.get(cell.name, DOCSTRING_TOKENS)
    data = first_rows(parts.train, cell.texts, seed)
    model, tokenizer = make_model(Task(longest, cell.epochs, 0), data, seed, cell.backbone)
    settings = LabelSettings(
        epochs=cell.epochs,
        learning_rate=cell.rate,
        max_length=longest,
        seed=seed,
        precision="bf16" if computes_in_bfloat16() else "fp32",
    )
    result = fine_tune(model, tokenizer, data, settings, quiet=True)
    dev = TokenisedDataset(first_rows(parts.dev, DEV, seed), tokenizer, longest)
    scores = evaluate(model, dev)
    return {
        "classes": len(data.label_names),
        "steps": result.steps,
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "dev": len(dev),
        "seconds": result.seconds,
    }


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Return the page beside the JSON file."""
    return "\n\n".join(
        [
            "# Epochs and learning rate of step 1: the rule against a grid",
            "Accuracy on dev texts after the last step (steps, learning rate). `cells` says how many of a grid of "
            f"{len(RATES)} learning rates and {len(STEPS)} numbers of steps have been run; one seed, so that "
            "differences below two points are chance. By `python benchmarks/training_rules.py`.",
            rows(cells),
        ]
    )


def rows(cells: Sequence[dict[str, Any]]) -> str:
    """Return a row for every set and number of texts."""
    lines = []
    for backbone, name, texts in dict.fromkeys((one["backbone"], one["set"], one["texts"]) for one in cells):
        here = [one for one in cells if (one["backbone"], one["set"], one["texts"]) == (backbone, name, texts)]
        best = max(here, key=lambda one: one["accuracy"])
        rule = by_rule(name, texts, here[0]["classes"], backbone)
        default = replace(rule, epochs=FINE_TUNING.epochs, rate=FINE_TUNING.learning_rate)
        lines.append(
            {
                "backbone": backbone,
                "set": name,
                "classes": str(here[0]["classes"]),
                "texts": f"{texts:,}",
                "cells": str(len(here)),
                "best of them": _in_words(best),
                "the rule": _in_words(_at(here, rule)),
                "3 epochs at 5e-05": _in_words(_at(here, default)),
            }
        )
    return markdown_table(lines)


def _at(cells: Sequence[dict[str, Any]], wanted: Cell) -> dict[str, Any] | None:
    return next((one for one in cells if wanted.key.items() <= one.items()), None)


def _in_words(cell: dict[str, Any] | None) -> str:
    return "-" if cell is None else f"{cell['accuracy']:.1%} ({cell['steps']:,}, {cell['rate']:g})"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets in files")
    parser.add_argument("--sets", nargs="+", choices=[*DOCSTRINGS, *FILES], help="all that are there by default")
    parser.add_argument("--backbone", choices=(SMALL, *ENCODERS), default=SMALL, help=f"what to start from ({SMALL})")
    parser.add_argument("--texts", nargs="+", type=int, help="only these numbers of texts")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no new cell begins")
    parser.add_argument("--seed", type=int, default=0, help="of which texts, the fresh heads and the training")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    options = parser.parse_args(argv)
    if options.sets is None:
        options.sets = [*DOCSTRINGS, *(FILES if options.data is not None else ())]
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    transformers.utils.logging.set_verbosity_error()
    begin, kept = time.monotonic(), options.out / f"{NAME}.json"
    done: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))["cells"] if kept.exists() else []
    parts = {name: parts_of(name, options.data) for name in options.sets}
    cells = [cell for name in options.sets for cell in cells_of(name, parts[name], options.backbone)]
    cells = [cell for cell in cells if options.texts is None or cell.texts in options.texts]
    for cell in sorted(cells, key=lambda one: one.cost):
        if _at(done, cell) is not None:
            continue
        if time.monotonic() - begin > 60 * options.minutes:
            break
        done.append(cell.key | train(cell, parts[cell.name], options.seed))
        print(f"{cell.name}, {cell.texts:,} texts: {_in_words(done[-1])}, {done[-1]['seconds']:.0f} s", flush=True)
        save(options.out, NAME, {"seed": options.seed, "batch_size": BATCH, "cells": done}, table(done))
    if done:
        print(table(done))


if __name__ == "__main__":
    main()

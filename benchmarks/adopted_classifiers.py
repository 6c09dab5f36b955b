#!/usr/bin/env python
"""Fine-tuned classifiers of Transformers, adopted on texts without labels: speed-up on the clock, and a promise kept.

    python benchmarks/adopted_classifiers.py --data FOLDER [--run FOLDER] [--tasks sst2 ag_news mrpc] [--quick]

FOLDER holds one folder per task with train.tsv, dev.tsv and test.tsv (header `label`, `text` or `text_a` and `text_b`).
For each task Transformers' own trainer fine-tunes a classifier on half of the training texts, as its owner would have.
Then it is adopted: students learn from others of these texts, and the exit rule is calibrated, on the development texts
and half of the test texts, to at most 1 % other labels than at full depth. No label is read in either step. The other
half of the test texts is counted, and 1,000 of it timed. The folder --run keeps the models and what was measured of
them, so that a stopped run goes on. Writes adopted_classifiers_cpu_FAMILY.json and .md (families.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from adopting import commands
from adopting.measure import EAGER, measure
from adopting.models import TASKS, Texts, adopted, fine_tuned, packaged_backbone
from fastbert_hf.files import write_atomically
from harness import markdown_table

BATCH = 32
MAX_DISAGREEMENT = 0.01
QUICK_TEXTS, QUICK_DISAGREEMENT = 64, 0.2  # so few texts can promise no less


def run_task(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what adoption is worth for one task; its models are made, or taken from the folder of the run, as is what
    was measured of them with as many rounds and the same promise."""
    task, folder = TASKS[name], options.run / name
    folder.mkdir(parents=True, exist_ok=True)
    measured = folder / f"measured_{options.rounds}_rounds_{options.max_disagreement:g}.json"
    if measured.exists():
        return json.loads(measured.read_text())
    texts = Texts.read(options.data / name, QUICK_TEXTS if options.quick else None)
    classifier = fine_tuned(folder / "classifier", options.backbone or packaged_backbone(), texts.labelled, task)
    model, seconds = adopted(folder / "adopted", classifier, texts.traffic, task)
    kept = folder / "seconds.json"
    if seconds is not None:
        write_atomically(kept, json.dumps({"adopting": seconds}) + "\n")
    case = {
        "task": name,
        "labelled": len(texts.labelled),
        "traffic": len(texts.traffic),
        "seconds_of_adopting": json.loads(kept.read_text())["adopting"],
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
        lines = []
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
            f"## {case['task']}: {case['texts']} new texts of {case['mean_tokens']:.0f} tokens",
            markdown_table(lines),
            f"Adopted on {case['traffic']} texts in {case['seconds_of_adopting'] / 60:.1f} minutes.",
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

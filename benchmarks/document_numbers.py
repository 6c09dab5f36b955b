"""Writes the figures of README.md and pages of docs, between their markers, from the files in benchmarks/results, and
the picture of accuracy against time.

python benchmarks/document_numbers.py            rewrites the documents
python benchmarks/document_numbers.py --check    exits with 1 when a document is not what the result files say
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from documents import (
    accuracy_and_time,
    calibration,
    demo,
    many_classes,
    marks,
    parts,
    plain,
    rates,
    reranking,
    trained,
    training,
)
from documents.adopted import adopted
from documents.agreement import agreement
from documents.exit_zero import exit_zero, sentences
from documents.interrupt import interrupted
from documents.neighbours import neighbours
from documents.serving import of_pool_or_batches, of_processes, served, soaked
from families import results_by_family
from harness import RESULTS
from measured import chart
from measured.readers import read_points

ROOT = RESULTS.parent.parent
DOCUMENTS = (
    "README.md",
    "docs/performance.md",
    "docs/serving.md",
    "docs/adopting.md",
    "docs/results.md",
    "docs/accuracy_and_time.md",
    "docs/training.md",
    "docs/calibration.md",
)
PICTURE = "docs/pictures/accuracy_and_time.png"
_BLOCK = re.compile(r"(<!-- numbers: (?P<name>[a-z ]+) -->\n).*?(^<!-- end of numbers -->)", re.DOTALL | re.MULTILINE)


def blocks(folder: Path) -> dict[str, str]:
    """Return the text of every block, by name, from the result files in `folder`."""
    comparisons, profiles = results_by_family(folder, "comparison"), results_by_family(folder, "profile_encoder")
    return {
        "demo": demo.sections(results_by_family(folder, "demo")),
        "labels": demo.labels(results_by_family(folder, "demo")),
        "plain classifiers": plain.tables(results_by_family(folder, "plain_classifiers"), comparisons),
        "adopted classifiers": adopted(results_by_family(folder, "adopted_classifiers")),
        "sources": rates.sources(comparisons, profiles),
        "charts": rates.charts(comparisons),
        "rates": rates.rates(comparisons),
        "trained model": rates.trained(comparisons),
        "marks": marks.marks(comparisons, profiles),
        "agreement": agreement(results_by_family(folder, "agreement")),
        "parts": parts.parts(profiles),
        "bounds": parts.bounds(profiles),
        "neighbours": neighbours(results_by_family(folder, "neighbours")),
        "interrupted": interrupted(results_by_family(folder, "interrupt")),
        "served": served(results_by_family(folder, "serving")),
        "soaked": soaked(results_by_family(folder, "soak")),
        "server processes": of_processes(results_by_family(folder, "server_processes")),
        "pool or batches": of_pool_or_batches(results_by_family(folder, "pool_or_batches")),
        "accuracy and time": accuracy_and_time.sections(read_points(folder)),
        "exit zero sentences": sentences(results_by_family(folder, "exit_zero")),
        "exit zero": exit_zero(results_by_family(folder, "exit_zero")),
        "calibration power": calibration.power(_result(folder, "calibration_power")),
        "walk": training.walked(_result(folder, "walk_cpu")),
        "training rules": training.rules(_result(folder, "training_rules")),
        "training pace": training.pace(results_by_family(folder, "training_pace")),
        "trained": trained.sections(_result(folder, "training_cpu")),
        "trained with other seeds": trained.other_seeds(_result(folder, "training_cpu")),
        "beside table two": trained.beside_table_2(_result(folder, "training_cpu")),
        "beside table three": trained.beside_table_3(_result(folder, "training_cpu")),
        "many classes": many_classes.criteria(_result(folder, "many_classes_cpu")),
        "reranking": reranking.sections(results_by_family(folder, "reranking")),
    }


def _result(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the result file of that name, one for all processors; `None` where there is none."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def fill(text: str, contents: Mapping[str, str]) -> str:
    """Return a document with every block between its markers replaced.

    Raises:
        KeyError: a block that there is nothing for.
    """
    return _BLOCK.sub(lambda found: f"{found[1]}{contents[found['name']]}\n{found[3]}", text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes the documents' figures from the committed result files.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when one is out of date")
    check = parser.parse_args(argv).check
    contents = blocks(RESULTS)
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        wanted = fill(text, contents)
        if wanted != text:
            stale.append(name)
            if not check:
                path.write_text(wanted, encoding="utf-8")
    points, picture = read_points(RESULTS), ROOT / PICTURE
    if not chart.is_of(picture, points):
        stale.append(PICTURE)
        if not check:
            chart.draw(points, picture)
    if check and stale:
        print(f"not what benchmarks/results says: {', '.join(stale)}; run python benchmarks/document_numbers.py")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())

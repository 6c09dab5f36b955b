#!/usr/bin/env python
"""Turns the archive of gpu_first.sh or gpu_second.sh into result files, what was predicted beside what was measured.

    python scripts/gpu_report.py all.tgz [--out benchmarks/results]

Writes NAME_GPU.json and NAME_GPU.md, as gpu_first_nvidia_h200.md, and copies the result files of the benchmarks that
ran. A step that failed and an item that is missing are in the table, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from gpu_items import ITEMS  # noqa: E402
from gpu_items.predictions import PREDICTIONS  # noqa: E402

from fastbert_hf.files import write_atomically  # noqa: E402

OFF = 1.5  # a figure further from its prediction than by this factor gets the sentence that belongs to it
BENCHMARKS = ("comparison_cuda", "compaction_cuda", "exit_head_cuda")


def read_items(log: Path) -> dict[str, dict[str, Any]]:
    """Return what each item says by its name; one that was begun and never ended says so."""
    items: dict[str, dict[str, Any]] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        entry = json.loads(line)
        name = entry.pop("item")
        items[name] = {"ok": False, "error": "the process ended before the item did"} if "begun" in entry else entry
    return items


def figure_of(item: dict[str, Any], path: str) -> float | None:
    """Return a figure by its path, `a.b`; None where the item has none."""
    value: Any = item
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else float(value)


def compared(items: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, float, float | None, str]]:
    """Yield item, figure, prediction, measurement, and the meaning where the two are far apart."""
    for name, predictions in PREDICTIONS.items():
        for prediction in predictions:
            measured = figure_of(items.get(name, {}), prediction.figure)
            near = measured is not None and prediction.value / OFF <= measured <= prediction.value * OFF
            meaning = "" if near or measured is None else prediction.meaning
            yield name, prediction.figure, prediction.value, measured, meaning


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells]


def page(title: str, summary: str, items: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown page of one archive."""
    missing = [name for name in ITEMS if name not in items]
    states = [
        [name, "right" if item["ok"] else "not right", f"{item.get('seconds', '-')}", str(item.get("error", ""))[:200]]
        for name, item in items.items()
    ]
    figures = [
        [name, figure, f"{want:g}", "-" if got is None else f"{got:g}", meaning]
        for name, figure, want, got, meaning in compared(items)
        if name in items
    ]
    lines = [f"# {title}", "", "Times are medians in microseconds: `us` of the device, `host_us` of the host.", ""]
    if items:
        lines += [*table(["item", "", "seconds", "error, or its cause"], states), ""]
        if missing:
            lines += [f"Not tried: {', '.join(missing)}.", ""]
    if figures:
        header = ["item", "figure", "predicted", "measured", "where they are far apart"]
        lines += ["## Predicted and measured", "", *table(header, figures), ""]
    return "\n".join([*lines, "## Steps", "", "```", summary.strip(), "```", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("archive", type=Path, help="all.tgz")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the files")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(options.archive) as archive:
                archive.extractall(folder, filter="data")
            (work,) = Path(folder).iterdir()
        except (OSError, tarfile.TarError, ValueError) as error:
            parser.error(f"{options.archive}: not an archive of gpu_first.sh or gpu_second.sh ({error})")
        summary = (work / "summary.txt").read_text()
        items = read_items(work / "smoke.jsonl")
        machine = items.get("machine", {}).get("machine")
        device = (machine or {}).get("cuda_device")
        name = f"{work.name.replace('-', '_')}_{'no_gpu' if device is None else device.lower().replace(' ', '_')}"
        title = f"{work.name}: {device or 'no GPU (a rehearsal, or the item `machine` failed)'}"
        ends = {file.stem: file.read_text(errors="replace")[-4000:] for file in sorted(work.glob("*.txt"))}
        result = {"machine": machine, "items": items, "summary": summary.splitlines(), "ends_of_outputs": ends}
        write_atomically(options.out / f"{name}.json", json.dumps(result, indent=2) + "\n")
        write_atomically(options.out / f"{name}.md", page(title, summary, items))
        written = [f"{name}.json", f"{name}.md"]
        for benchmark in BENCHMARKS:
            for ending in (".json", ".md"):
                if (file := work / f"{benchmark}{ending}").exists():
                    write_atomically(options.out / file.name, file.read_text())
                    written.append(file.name)
    print(f"written to {options.out}: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The demo's result as tables, a Markdown page, JSON and a chart."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fastbert_hf.analysis.charts import BLUE, GREEN, ORANGE, VERMILLION, new_figure
from fastbert_hf.analysis.exits import easiest_and_hardest
from fastbert_hf.analysis.page import ShownExample
from fastbert_hf.analysis.tradeoff_charts import finished, label
from fastbert_hf.calibration import ExitRecords, ExitRule
from fastbert_hf.data import ClassificationData
from fastbert_hf.files import write_atomically
from fastbert_hf.machine import name_machine

# Of the forms of the model: colours that colour-blind readers can tell apart, markers for those who print in grey.
_STYLES: dict[str, dict[str, Any]] = {
    "unpatched": {"color": ORANGE, "marker": "o"},
    "patched": {"color": BLUE, "marker": "s"},
    "patched bfloat16": {"color": GREEN, "marker": "^"},
    "patched int8": {"color": VERMILLION, "marker": "D"},
}
_COLUMNS = ["Speed", "mean exit layer", "FLOPs speed-up", "model", "accuracy", "macro F1"]
_COLUMNS += ["ms per text", "speed-up", "realisation"]
_EXAMPLE_SPEED = 0.5
_EXAMPLES = 5

Examples = dict[str, list[ShownExample]]


def write(console: Console, out: Path, results: dict[str, Any], records: ExitRecords, test: ClassificationData) -> None:
    """Write results.json, examples.json, report.md and curve.png into `out`, and print the tables."""
    pair = easiest_and_hardest(records, ExitRule.one_speed(records.student_layers, _EXAMPLE_SPEED), _EXAMPLES)
    examples: Examples = {
        kind: [ShownExample.of(one, test.label_names, [test.texts[one.row]]) for one in found]
        for kind, found in zip(("easiest", "hardest"), pair, strict=True)
    }
    shown = {kind: [asdict(example) for example in found] for kind, found in examples.items()}
    write_atomically(out / "results.json", json.dumps(results, indent=2) + "\n")
    content = json.dumps({"speed": _EXAMPLE_SPEED, **shown}, indent=2, ensure_ascii=False)
    write_atomically(out / "examples.json", content + "\n")
    write_atomically(out / "curve.png", _chart(results))
    write_atomically(out / "report.md", _markdown(results, records, examples))

    console.print(_table(_COLUMNS, _cells(results)))
    console.print(_footnote(results))
    for line in _without_exits(results, records):
        console.print(line)
    console.print(results["verdict"]["sentence"])
    for kind, found in examples.items():
        console.print(_table(_example_columns(f"the {len(found)} {kind} texts"), map(_example_cells, found)))
    console.print(f"written: {out}/report.md, results.json, examples.json, curve.png, model/", soft_wrap=True)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    return table


def _cells(results: dict[str, Any]) -> list[list[str]]:
    """Return a row per Speed and form of the model; what those of a Speed share is written once."""
    table = []
    for row in results["rows"]:
        speed = "full depth" if row["speed"] is None else f"{row['speed']:g}"
        shared = [speed, f"{row['mean_exit_layer']:.2f}", f"{row['flops_speedup']:.2f}x"]
        for name, figures in row["variants"].items():
            milliseconds = 1e3 * statistics.median(figures["seconds"]) / results["timed_texts"]
            cells = [name, f"{figures['accuracy']:.1%}", f"{figures['macro_f1']:.3f}", f"{milliseconds:.2f}"]
            cells.append(f"{figures['speedup']:.2f}x" if "speedup" in figures else "-")
            adaptive = row["speed"] is not None and "realisation" in figures
            cells.append(f"{figures['realisation']:.2f}" if adaptive else "-")
            table.append([*shared, *cells])
            shared = ["", "", ""]
    return table


def _example_columns(texts: str) -> list[str]:
    return ["exit layer", "uncertainty", "label", "predicted", texts]


def _example_cells(example: ShownExample) -> list[str]:
    uncertainty = "-" if example.uncertainty is None else f"{example.uncertainty:.2f}"
    return [str(example.exit_layer), uncertainty, example.label, example.prediction, *(example.texts or ())]


def _footnote(results: dict[str, Any]) -> str:
    machine = results["machine"]
    rounds = len(results["rows"][0]["variants"]["unpatched"]["seconds"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"Batches of {results['batch_size']} texts in input order, {results['timed_texts']} texts timed, median of "
        f"{rounds} interleaved rounds. Speed-up: over the unpatched model at full depth. Realisation: speed-up over "
        f"the same model at its own full depth, divided by the FLOPs speed-up. {name_machine(machine)}, {versions}, "
        f"{machine['date']}."
    )


def _without_exits(results: dict[str, Any], records: ExitRecords) -> list[str]:
    """Return what does without early exits: the first layers alone, and a bag of words."""
    alone = ", ".join(
        f"{layer}: {share:.1%}" for layer, share in zip(records.exit_layers, records.right.mean(axis=0), strict=True)
    )
    found = results["verdict"]
    return [
        f"The first layers alone, with the head behind the last of them: {alone}.",
        f"A bag of {found['unit']} (TF-IDF, logistic regression) that learnt from the same texts: {found['bag']:.1%}.",
    ]


def _markdown(results: dict[str, Any], records: ExitRecords, examples: Examples) -> str:
    data, training = results["data"], results["training"]
    lines = [
        "# FastBERT demo",
        "",
        f"**{results['verdict']['sentence']}**",
        "",
        f"{data['train']} training and {data['test']} test texts ({data['source']}), {len(data['classes'])} classes: "
        f"{', '.join(data['classes'])}; {data['mean_tokens']:.0f} tokens on average. Fine-tuned for "
        f"{training['fine_tuning']['seconds']:.0f} s and distilled for {training['distillation']['seconds']:.0f} s in "
        f"{training['precision']}; {results['seconds_in_all']:.0f} s in all.",
        "",
        *_markdown_table(_COLUMNS, _cells(results)),
        "",
        _footnote(results),
        "",
        *_without_exits(results, records),
        "",
        "Agreement of the patched model with the unpatched one: "
        + "; ".join(
            f"{name}: {share['labels']:.2%} of labels, {share['exit_layers']:.2%} of exit layers (ties with Speed "
            f"apart), largest logit difference {share['logits']:.1e}"
            for name, share in results["agreement"].items()
        )
        + ".",
        "",
        "![Accuracy against measured speed-up](curve.png)",
    ]
    for kind, found in examples.items():
        lines += ["", f"## The {kind} texts at Speed {_EXAMPLE_SPEED:g}", ""]
        lines += _markdown_table(_example_columns("text"), map(_example_cells, found))
    return "\n".join(lines) + "\n"


def _markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *escaped)]


def _chart(results: dict[str, Any]) -> bytes:
    """Draw accuracy against speed-up over the unpatched model at full depth, a curve per form, labelled with Speed."""
    figure = new_figure(5.0)
    axes = figure.add_subplot()
    labels = []
    for name, style in _STYLES.items():
        points = [
            (row["variants"][name]["speedup"], row["variants"][name]["accuracy"], row["speed"])
            for row in results["rows"]
            if "speedup" in row["variants"].get(name, {})
        ]
        if points:
            axes.plot(*zip(*((x, y) for x, y, _ in points), strict=True), label=f"{name} (labels: Speed)", **style)
        labels += [
            label(axes, x, y, "full depth" if speed is None else f"{speed:g}", style["color"]) for x, y, speed in points
        ]
    return finished(figure, axes, "measured speed-up over the unpatched model at full depth", labels)

"""The demo's result as a table, a Markdown page, JSON and a chart."""

from __future__ import annotations

import io
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from fastbert_cli.measure import AllExits
from fastbert_hf.data import ClassificationData
from fastbert_hf.files import write_atomically

# Okabe and Ito's colours, told apart by colour-blind readers too; the markers tell them apart in grey.
_STYLES: dict[str, dict[str, Any]] = {
    "unpatched": {"color": "#E69F00", "marker": "o"},
    "patched": {"color": "#0072B2", "marker": "s"},
    "patched bfloat16": {"color": "#009E73", "marker": "^"},
    "patched int8": {"color": "#D55E00", "marker": "D"},
}


def pick_examples(test: ClassificationData, every: AllExits, speed: float, count: int = 5) -> dict[str, Any]:
    """The easiest and the hardest texts at `speed`: least and most layers, ties by the uncertainty at the exit."""
    exit_layers = every.exit_layers(speed)
    uncertainty = every.uncertainty.gather(1, exit_layers[:, None] - 1)[:, 0]
    predictions = every.predictions.gather(1, exit_layers[:, None] - 1)[:, 0]
    order = torch.argsort(exit_layers + uncertainty / 2)

    def describe(index: int) -> dict[str, Any]:
        return {
            "text": test.texts[index],
            "label": test.label_names[test.label_ids[index]],
            "prediction": test.label_names[int(predictions[index])],
            "exit_layer": int(exit_layers[index]),
            "uncertainty": float(uncertainty[index]),
        }

    easiest, hardest = order[:count].tolist(), order.flip(0)[:count].tolist()
    return {"speed": speed, "easiest": [describe(i) for i in easiest], "hardest": [describe(i) for i in hardest]}


def write(out: Path, results: dict[str, Any], examples: dict[str, Any]) -> None:
    """Writes results.json, examples.json, report.md and curve.png into `out`."""
    write_atomically(out / "results.json", json.dumps(results, indent=2) + "\n")
    write_atomically(out / "examples.json", json.dumps(examples, indent=2, ensure_ascii=False) + "\n")
    write_atomically(out / "curve.png", _chart(results))
    write_atomically(out / "report.md", _markdown(results, examples))


def show(console: Console, out: Path, results: dict[str, Any]) -> None:
    """Prints the table and where the files are."""
    header, *rows = _cells(results)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(_footnote(results))
    examples = json.loads((out / "examples.json").read_text(encoding="utf-8"))
    for kind in ("easiest", "hardest"):
        shown = Table("exit layer", "uncertainty", "label", "predicted", f"the {len(examples[kind])} {kind} texts")
        for example in examples[kind]:
            text = example["text"] if len(example["text"]) <= 100 else example["text"][:97] + "..."
            shown.add_row(
                str(example["exit_layer"]),
                f"{example['uncertainty']:.2f}",
                example["label"],
                example["prediction"],
                text,
            )
        console.print(shown)
    console.print(f"written: {out}/report.md, results.json, examples.json, curve.png, model/", soft_wrap=True)


def _cells(results: dict[str, Any]) -> list[list[str]]:
    """Header and one row per Speed and variant; what the variants of a Speed share is written once."""
    header = [
        "Speed",
        "mean exit layer",
        "FLOPs speed-up",
        "model",
        "accuracy",
        "ms per text",
        "speed-up",
        "realisation",
    ]
    table = [header]
    for row in results["rows"]:
        speed = "full depth" if row["speed"] is None else f"{row['speed']:g}"
        shared = [speed, f"{row['mean_exit_layer']:.2f}", f"{row['flops_speedup']:.2f}x"]
        for name, figures in row["variants"].items():
            milliseconds = 1e3 * statistics.median(figures["seconds"]) / results["timed_texts"]
            cells = [name, f"{figures['accuracy']:.1%}", f"{milliseconds:.2f}"]
            cells.append(f"{figures['speedup']:.2f}x" if "speedup" in figures else "-")
            adaptive = row["speed"] is not None and "realisation" in figures
            cells.append(f"{figures['realisation']:.2f}" if adaptive else "-")
            table.append([*shared, *cells])
            shared = ["", "", ""]
    return table


def _footnote(results: dict[str, Any]) -> str:
    machine = results["machine"]
    rounds = len(results["rows"][0]["variants"]["unpatched"]["seconds"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"Batches of {results['batch_size']} texts in input order, {results['timed_texts']} texts timed, median of "
        f"{rounds} interleaved rounds. Speed-up: over the unpatched model at full depth. Realisation: speed-up over "
        f"the same model at its own full depth, divided by the FLOPs speed-up. {machine['processor']}, "
        f"{machine['threads']} threads, {versions}, {machine['date']}."
    )


def _markdown(results: dict[str, Any], examples: dict[str, Any]) -> str:
    header, *rows = _cells(results)
    data, training = results["data"], results["training"]
    lines = [
        "# FastBERT demo",
        "",
        f"{data['train']} training and {data['test']} test texts ({data['source']}), {len(data['classes'])} classes: "
        f"{', '.join(data['classes'])}; {data['mean_tokens']:.0f} tokens on average. Fine-tuned for "
        f"{training['fine_tuning']['seconds']:.0f} s and distilled for {training['distillation']['seconds']:.0f} s in "
        f"{training['precision']}; {results['seconds_in_all']:.0f} s in all.",
        "",
        "| " + " | ".join(header) + " |",
        "| " + " | ".join("---:" for _ in header) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        _footnote(results),
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
    for kind in ("easiest", "hardest"):
        lines += ["", f"## The {kind} texts at Speed {examples['speed']:g}", ""]
        lines += ["| exit layer | uncertainty | label | predicted | text |", "| ---: | ---: | --- | --- | --- |"]
        for example in examples[kind]:
            text = example["text"].replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
            lines.append(
                f"| {example['exit_layer']} | {example['uncertainty']:.2f} | {example['label']} | "
                f"{example['prediction']} | {text} |"
            )
    return "\n".join(lines) + "\n"


def _chart(results: dict[str, Any]) -> bytes:
    """Accuracy against speed-up over the unpatched model at full depth, one curve per variant, marked with Speed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, style in _STYLES.items():
        points = [
            (row["variants"][name]["speedup"], 100 * row["variants"][name]["accuracy"], row["speed"])
            for row in results["rows"]
            if "speedup" in row["variants"].get(name, {})
        ]
        if not points:
            continue
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], label=name, linewidth=1.5, **style)
        for x, y, speed in points:
            text = "full depth" if speed is None else f"Speed {speed:g}"
            axes.annotate(text, (x, y), textcoords="offset points", xytext=(5, 5), fontsize=7)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_xlabel("measured speed-up over the unpatched model at full depth")
    axes.set_ylabel("accuracy on the test texts (%)")
    axes.grid(alpha=0.3)
    axes.margins(x=0.12)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()

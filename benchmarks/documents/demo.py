"""The tables of `make demo`."""

from __future__ import annotations

import statistics
from typing import Any

from families import in_words, processor_of


def sections(results: dict[str, dict[str, Any]]) -> str:
    """Return what README.md says about the demo: a paragraph and a table for every family."""
    return "\n\n".join(section(family, result) for family, result in results.items())


def labels(results: dict[str, dict[str, Any]]) -> str:
    """Return, for every family, the share of labels that are the unpatched model's, in every precision."""
    lines = []
    for family, result in results.items():
        shares = [
            f"{found['labels']:.1%} in {name.removeprefix('patched').strip() or 'float32'}"
            for name, found in result["agreement"].items()
        ]
        lines.append(f"- {in_words(family, result)}: {', '.join(shares)}")
    return "\n".join(lines) or "Not measured yet."


def section(family: str, results: dict[str, Any]) -> str:
    """Return the paragraph and table of one family."""
    machine, data, timed = results["machine"], results["data"], results["timed_texts"]
    names = list(results["rows"][0]["variants"])
    # Files from before macro F1 was measured have none.
    has_f1 = all("macro_f1" in row["variants"]["unpatched"] for row in results["rows"])
    columns = ["Speed", "accuracy", *(["macro F1"] if has_f1 else []), "mean exit layer", "FLOPs speed-up", *names]
    precision = results["training"]["precision"]
    lines = [
        f"Measured by `make demo` on {machine['threads']} cores of an {processor_of(family, results)} with "
        f"{', '.join(machine['extensions'])} ({machine['date'][:10]}, torch {machine['versions']['torch']}, "
        f"transformers {machine['versions']['transformers']}), in {results['seconds_in_all'] / 60:.1f} minutes "
        f"after set-up: a {results['layers']}-layer MiniLM, trained in {precision}, on {data['test']} docstrings of "
        f"{len(data['classes'])} libraries ({data['mean_tokens']:.0f} tokens on average), batches of "
        f"{results['batch_size']} in input order. "
        "Milliseconds per text, and in brackets the speed-up over the unpatched model at full depth:",
        "",
        f"| {' | '.join(columns)} |",
        f"| --- | {' | '.join('---:' for _ in columns[1:])} |",
    ]
    for row in results["rows"]:
        cells = [
            "full depth" if row["speed"] is None else f"{row['speed']:g}",
            f"{row['variants']['unpatched']['accuracy']:.1%}",
            *([f"{row['variants']['unpatched']['macro_f1']:.3f}"] if has_f1 else []),
            f"{row['mean_exit_layer']:.2f} of {results['layers']}",
            f"{row['flops_speedup']:.2f}x",
        ]
        for name in names:
            variant = row["variants"][name]
            milliseconds = 1e3 * statistics.median(variant["seconds"]) / timed
            cells.append(f"{milliseconds:.2f} ({variant['speedup']:.1f}x)")
        lines.append("| " + " | ".join(cells) + " |")
    gains = []
    for name in names[1:]:
        ratios = [
            statistics.median(row["variants"]["unpatched"]["seconds"])
            / statistics.median(row["variants"][name]["seconds"])
            for row in results["rows"]
        ]
        gains.append(f"{min(ratios):.1f}x to {max(ratios):.1f}x ({name})")
    agreement = results["agreement"]
    shares = " and ".join(f"{agreement[name]['labels']:.1%} ({name})" for name in names if name in agreement)
    lines += [
        "",
        f"At the same Speed, over the unpatched model: {' and '.join(gains)}.",
        f"Labels equal to the unpatched model's, on 128 of these texts at each Speed: {shares}. On other texts and "
        "models some may differ; `fastbert evaluate --agreement` counts them on yours. Raw figures: "
        f"`benchmarks/results/demo_cpu_{family}.json`.",
        "",
        f"![Accuracy against measured speed-up, one curve per model](benchmarks/results/demo_cpu_{family}.png)",
    ]
    return "\n".join(lines)

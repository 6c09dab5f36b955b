"""The table of plain classifiers of Transformers, patched at full depth."""

from __future__ import annotations

from typing import Any

from families import in_words
from harness import markdown_table


def tables(results: dict[str, dict[str, Any]]) -> str:
    """Return what README.md says of plain classifiers: a paragraph and a table for every family."""
    return "\n\n".join(_table(family, result) for family, result in results.items())


def _table(family: str, result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    packages = {**machine["versions"], **versions}
    named = ", ".join(
        f"{name} {packages[name]}"
        for name in ("torch", "transformers", "onnxruntime", "openvino")
        if packages.get(name)
    )
    cases = result["configurations"]
    lines = []
    for contestant in dict.fromkeys(row["contestant"] for case in cases for row in case["rows"]):
        cells = {"texts per second": contestant}
        for case in cases:
            row = next((row for row in case["rows"] if row["contestant"] == contestant), None)
            cells[f"{case['shape']}, batch {case['batch']}"] = "-" if row is None else _cell(row)
        lines.append(cells)
    mean = cases[0]["mean_length"]
    return (
        f"Measured by `benchmarks/plain_classifiers.py` on {machine['threads']} cores, {in_words(family, result)} "
        f"({machine['date'][:10]}, {named}): `BertForSequenceClassification` with random weights at full depth, texts "
        f"of {mean:.0f} tokens on average, all engines on the same padded batches in the same run; in brackets over "
        f"{result['baseline']}. Raw figures: `benchmarks/results/plain_classifiers_cpu_{family}.json`.\n\n"
        f"{markdown_table(lines)}"
    )


def _cell(row: dict[str, Any]) -> str:
    speedup = f"{row['speedup']:.2g}x" if row["agrees"] else "outputs disagree"
    return f"{row['samples_per_second']['p50']:.3g} ({speedup})"

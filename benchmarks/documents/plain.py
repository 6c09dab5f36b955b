"""What full depth alone gains: plain classifiers of Transformers, patched, beside other engines."""

from __future__ import annotations

from typing import Any

from families import in_words
from harness import markdown_table
from peers.contestant import FULL_DEPTH_PEER, OURS

_PACKAGES = ("torch", "transformers", "onnxruntime", "openvino")
_BATCHES = (1, 32)

Result = dict[str, Any]


def tables(results: dict[str, Result], comparisons: dict[str, Result]) -> str:
    """Return what README.md says of full depth: a paragraph and a table for every family.

    Args:
        results: of `plain_classifiers.py`, by family.
        comparisons: of `comparison.py`, by family; they stand in where the other was not run, with the same encoders at
            full depth and the paper's head in place of pooler and classifier.
    """
    parts = [_table(family, result, "plain_classifiers", "") for family, result in results.items()]
    note = ", with the paper's exit head in place of pooler and classifier"
    parts += [
        _table(family, comparisons[family], "comparison", note) for family in comparisons if family not in results
    ]
    return "\n\n".join(parts)


def _table(family: str, result: Result, benchmark: str, note: str) -> str:
    machine = result["machine"]
    versions = {**machine["versions"], **result["versions"]}
    named = ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if versions.get(name))
    cases = [
        case for case in result["configurations"] if case["batch"] in _BATCHES and case.get("kind", "mixed") == "mixed"
    ]
    lines = []
    for contestant in dict.fromkeys(row["contestant"] for case in cases for row in case["rows"] if _is_shown(row)):
        cells = {"texts per second": contestant}
        for case in cases:
            found = (row for row in case["rows"] if row["contestant"] == contestant and row["run"] == "full depth")
            row = next(found, None)
            cells[f"{case['shape']}, batch {case['batch']}"] = "-" if row is None else _cell(row)
        lines.append(cells)
    return (
        f"Measured by `benchmarks/{benchmark}.py` on {machine['threads']} cores, {in_words(family, result)} "
        f"({machine['date'][:10]}, {named}): BERT models with random weights at full depth{note}; texts of "
        f"{cases[0]['mean_length']:.0f} tokens on average, the same padded batches for all engines in the same run; in "
        f"brackets over {result['baseline']}. Raw figures: `benchmarks/results/{benchmark}_cpu_{family}.json`.\n\n"
        f"{markdown_table(lines)}"
    )


def _is_shown(row: Result) -> bool:
    ours = row["group"] == OURS and row["contestant"].startswith("ours patched")
    return row["run"] == "full depth" and (ours or row["group"] == FULL_DEPTH_PEER)


def _cell(row: Result) -> str:
    speedup = f"{row['speedup']:.2g}x" if row["agrees"] else "outputs disagree"
    return f"{row['samples_per_second']['p50']:.3g} ({speedup})"

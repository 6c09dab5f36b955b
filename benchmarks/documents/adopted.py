"""What adoption gains on real models: time, and answers that differ where so many were promised at most."""

from __future__ import annotations

from typing import Any

from families import in_words
from harness import markdown_table

NAMES = {"sst2": "SST-2", "ag_news": "AG News", "mrpc": "MRPC"}

Result = dict[str, Any]


def adopted(results: dict[str, Result]) -> str:
    """Return a paragraph and a table for every family: a row for each contestant, columns for each classifier."""
    return "\n\n".join(_table(family, result) for family, result in results.items()) or "Not measured yet."


def _table(family: str, result: Result) -> str:
    machine, cases = result["machine"], result["tasks"]
    versions = machine["versions"]
    lines = []
    # A dtype that was taken by itself may differ between classifiers, so rows are paired by their place.
    for rows in zip(*(case["rows"] for case in cases), strict=True):
        cells = {"texts per second": _contestant(rows[0]["contestant"])}
        for case, row in zip(cases, rows, strict=True):
            cells[NAMES[case["task"]]] = _cell(case, row)
        lines.append(cells)
    sizes = ", ".join(
        f"{NAMES[case['task']]} {case['texts']} texts of {case['mean_tokens']:.0f} tokens" for case in cases
    )
    return (
        f"Measured by `benchmarks/adopted_classifiers.py` on {machine['threads']} cores, {in_words(family, result)} "
        f"({machine['date'][:10]}, torch {versions['torch']}, transformers {versions['transformers']}): 6-layer MiniLM "
        "classifiers fine-tuned by Transformers, adopted and calibrated without labels to at most "
        f"{result['max_disagreement']:.0%} other labels than at full depth, with 95 % confidence; new texts in batches "
        f"of {cases[0]['batch']} as they came ({sizes}). In brackets: over {result['baseline']}; accuracy; labels "
        f"unlike full depth's. Raw figures: `benchmarks/results/adopted_classifiers_cpu_{family}.json`.\n\n"
        f"{markdown_table(lines)}"
    )


def _contestant(name: str) -> str:
    if name.startswith("Transformers"):
        return name
    name, by_itself, _ = name.partition(", by itself")
    return f"ours {name.rpartition(', ')[0]}, dtype auto" if by_itself else f"ours {name}"


def _cell(case: Result, row: Result) -> str:
    other = row.get("other_labels_than_own_full_depth")
    parts = [f"{row['over_eager']:.2g}x", f"{row['accuracy']:.1%}"]
    if other is not None:
        parts.append(f"{other / case['texts']:.1%} unlike")
    return f"{row['texts_per_second']:.3g} ({', '.join(parts)})"

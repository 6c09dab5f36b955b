"""What adoption gains on real models: time, and answers that differ where so many were promised at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from families import in_words
from harness import markdown_table
from run_folders import model_in_words

NAMES = {"sst2": "SST-2", "ag_news": "AG News", "mrpc": "MRPC"}

Result = dict[str, Any]


def adopted(results: dict[str, Result]) -> str:
    """Return a paragraph and a table for every family and backbone: a row for each contestant, columns for each
    classifier."""
    return of_each(results, _table)


def of_each(results: dict[str, Result], write: Callable[[str, Result, str, list[Result]], str]) -> str:
    """Return what `write` has to say of every family and backbone.

    Args:
        results: by family.
        write: takes a family, its result, what the classifiers started from, in words, and the tasks of these.
    """
    said = []
    for family, result in results.items():
        groups: dict[str, list[Result]] = {}
        for case in result["tasks"]:
            groups.setdefault(model_in_words(case), []).append(case)
        said += [write(family, result, model, cases) for model, cases in groups.items()]
    return "\n\n".join(said) or "Not measured yet."


def dates(result: Result, cases: list[Result]) -> str:
    """Return the day on which cases were measured, or the first and the last; cases of before have that of the file."""
    days = sorted({case.get("date", result["machine"]["date"])[:10] for case in cases})
    return " to ".join(dict.fromkeys((days[0], days[-1])))


def _table(family: str, result: Result, model: str, cases: list[Result]) -> str:
    machine = result["machine"]
    versions = machine["versions"]
    lines = []
    for rows in _paired(cases):
        cells = {"texts per second": _contestant(next(filter(None, rows))["contestant"])}
        for case, row in zip(cases, rows, strict=True):
            cells[NAMES[case["task"]]] = "-" if row is None else _cell(case, row)
        lines.append(cells)
    sizes = ", ".join(
        f"{NAMES[case['task']]} {case['texts']} texts of {case['mean_tokens']:.0f} tokens" for case in cases
    )
    return (
        f"Measured by `benchmarks/adopted_classifiers.py` on {machine['threads']} cores, {in_words(family, result)} "
        f"({dates(result, cases)}, torch {versions['torch']}, transformers {versions['transformers']}): {model} "
        "classifiers fine-tuned by Transformers, adopted and calibrated without labels to at most "
        f"{result['max_disagreement']:.0%} other labels than at full depth, with 95 % confidence; new texts in batches "
        f"of {cases[0]['batch']} as they came ({sizes}). In brackets: over {result['baseline']}; accuracy; labels "
        f"unlike full depth's. Raw figures: `benchmarks/results/adopted_classifiers_cpu_{family}.json`.\n\n"
        f"{markdown_table(lines)}"
    )


def _paired(cases: list[Result]) -> list[tuple[Result | None, ...]]:
    """Return the rows of each contestant, None where a case has none."""
    of_others = [{row["contestant"]: row for row in case["rows"] if not _is_ours(row)} for case in cases]
    names = dict.fromkeys(name for rows in of_others for name in rows)
    # A dtype that was taken by itself may differ between classifiers, so our rows are paired by their place.
    ours = zip(*([row for row in case["rows"] if _is_ours(row)] for case in cases), strict=True)
    return [*(tuple(rows.get(name) for rows in of_others) for name in names), *ours]


def _is_ours(row: Result) -> bool:
    return row["contestant"].startswith(("patched", "adopted"))


def _contestant(name: str) -> str:
    if not name.startswith(("patched", "adopted")):
        return name
    name, by_itself, _ = name.partition(", by itself")
    return f"ours {name.rpartition(', ')[0]}, dtype auto" if by_itself else f"ours {name}"


def _cell(case: Result, row: Result) -> str:
    other = row.get("other_labels_than_own_full_depth")
    parts = [f"{row['over_eager']:.2g}x", f"{row['accuracy']:.1%}"]
    if other is not None:
        parts.append(f"{other / case['texts']:.1%} unlike")
    return f"{row['texts_per_second']:.3g} ({', '.join(parts)})"

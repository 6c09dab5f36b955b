"""The table of the profile."""

from __future__ import annotations

from typing import Any

from documents.rates import DTYPES, Results
from families import in_words
from harness import markdown_table

_RUN = ("BERT-base", "mean depth 4 of 12")


def parts(profiles: Results) -> str:
    """Return milliseconds and share of every part of the adaptive run, a column for every family and dtype."""
    cases: dict[str, dict[str, Any]] = {}
    for family, result in profiles.items():
        for dtype in DTYPES:
            for case in result["cases"]:
                if (case["shape"], case["run"], case["dtype"]) == (*_RUN, dtype):
                    cases[f"{in_words(family, result)}: {dtype}"] = case
    names = list(dict.fromkeys(name for case in cases.values() for name in case["parts"]))
    table = []
    for name in names:
        cells = {"part": name.replace("_", " ")}
        for heading, case in cases.items():
            seconds = case["parts"].get(name)
            cells[heading] = "-" if seconds is None else f"{1e3 * seconds:.1f} ({seconds / case['seconds']:.1%})"
        table.append(cells)
    table.append({"part": "all", **{heading: f"{1e3 * case['seconds']:.1f}" for heading, case in cases.items()}})
    return markdown_table(table)

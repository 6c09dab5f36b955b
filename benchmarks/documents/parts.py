"""The table of the profile."""

from __future__ import annotations

from typing import Any

from documents.rates import DTYPES, Results
from families import in_words
from harness import markdown_table

_RUN = ("BERT-base", "mean depth 4 of 12")


def parts(profiles: Results) -> str:
    """Return milliseconds and share of every part of the adaptive run, a column for every family and dtype."""
    cases = _cases(profiles)
    names = list(dict.fromkeys(name for case in cases.values() for name in case["parts"]))
    table = []
    for name in names:
        cells = {"part": name.replace("_", " ")}
        for heading, case in cases.items():
            seconds = case["parts"][name]
            cells[heading] = f"{1e3 * seconds:.1f} ({seconds / case['seconds']:.1%})"
        table.append(cells)
    table.append({"part": "all", **{heading: f"{1e3 * case['seconds']:.1f}" for heading, case in cases.items()}})
    return markdown_table(table)


def bounds(profiles: Results) -> str:
    """Return what every part reaches of its nearest bound, a column for every family and dtype whose file has it."""
    cases = {heading: case for heading, case in _cases(profiles).items() if "bounds" in case}
    if not cases:
        return "Not measured yet."
    names = list(dict.fromkeys(name for case in cases.values() for name in case["bounds"]))
    table = []
    for name in names:
        cells = {"part": name.replace("_", " ")}
        for heading, case in cases.items():
            found = case["bounds"][name]
            unit = f" ({found['bound'].replace('_', ' ')})" if "bound" in found else ""
            cells[heading] = f"{found['share']:.0%}{unit}"
        table.append(cells)
    units = list(dict.fromkeys(unit for case in cases.values() for unit in case["rates"]))
    for unit in units:
        scale = "GB/s" if unit == "memory" else "GFLOP/s"
        cells = {"part": f"{unit.replace('_', ' ')}, {scale}"}
        for heading, case in cases.items():
            cells[heading] = f"{case['rates'][unit] / 1e9:.0f}" if unit in case["rates"] else "-"
        table.append(cells)
    return markdown_table(table)


def _cases(profiles: Results) -> dict[str, dict[str, Any]]:
    cases: dict[str, dict[str, Any]] = {}
    for family, result in profiles.items():
        for dtype in DTYPES:
            for case in result["cases"]:
                if (case["shape"], case["run"], case["dtype"]) == (*_RUN, dtype):
                    cases[f"{in_words(family, result)}: {dtype}"] = case
    return cases

"""The table of the profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from documents.rates import DTYPES, Results
from families import in_words
from harness import markdown_table

_RUN = ("BERT-base", "mean depth 4 of 12")


def parts(profiles: Results) -> str:
    """Return milliseconds and share of every part of the adaptive run, a column for every family and dtype."""
    cases = _cases(profiles)
    table = _rows(cases, "parts", lambda case, seconds: f"{1e3 * seconds:.1f} ({seconds / case['seconds']:.1%})")
    table.append({"part": "all", **{heading: f"{1e3 * case['seconds']:.1f}" for heading, case in cases.items()}})
    return markdown_table(table)


def bounds(profiles: Results) -> str:
    """Return what every part reaches of its nearest bound, a column for every family and dtype whose file has it."""
    cases = {heading: case for heading, case in _cases(profiles).items() if "bounds" in case}
    if not cases:
        return "Not measured yet."
    table = _rows(cases, "bounds", _share)
    units = list(dict.fromkeys(unit for case in cases.values() for unit in case["rates"]))
    for unit in units:
        scale = "GB/s" if unit == "memory" else "GFLOP/s"
        cells = {"part": f"{unit.replace('_', ' ')}, {scale}"}
        for heading, case in cases.items():
            cells[heading] = f"{case['rates'][unit] / 1e9:.0f}" if unit in case["rates"] else "-"
        table.append(cells)
    return markdown_table(table)


def _rows(
    cases: dict[str, dict[str, Any]], field: str, cell: Callable[[dict[str, Any], Any], str]
) -> list[dict[str, str]]:
    """A row for each part that `field` has in any case; `cell` makes a cell of a case and what its field has."""
    names = dict.fromkeys(name for case in cases.values() for name in case[field])
    return [
        {"part": name.replace("_", " "), **{heading: cell(case, case[field][name]) for heading, case in cases.items()}}
        for name in names
    ]


def _share(case: dict[str, Any], found: dict[str, Any]) -> str:
    unit = f" ({found['bound'].replace('_', ' ')})" if "bound" in found else ""
    return f"{found['share']:.0%}{unit}"


def _cases(profiles: Results) -> dict[str, dict[str, Any]]:
    cases: dict[str, dict[str, Any]] = {}
    for family, result in profiles.items():
        for dtype in DTYPES:
            for case in result["cases"]:
                if (case["shape"], case["run"], case["dtype"]) == (*_RUN, dtype):
                    cases[f"{in_words(family, result)}: {dtype}"] = case
    return cases

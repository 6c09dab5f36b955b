"""What docs/calibration.md says in figures: how fast a rule is let through, by the number of texts and the way."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import Any

from harness import markdown_table

Result = dict[str, Any]


def power(result: Result | None) -> str:
    """Return a table for every promise; a sentence where nothing has been simulated."""
    if result is None:
        return (
            "Where the border lies has not been measured: `python benchmarks/calibration_power.py` simulates it on "
            "recorded exits."
        )
    said = (
        f"Simulated by `python benchmarks/calibration_power.py` on recorded exits. {_what_is_shown(result)} Raw "
        f"figures: `benchmarks/results/calibration_power.json`."
    )
    return "\n\n".join(part for part in (said, _tables(result, ""), _beside_half(result)) if part)


def page(result: Result) -> str:
    """Return the page beside the result file."""
    parts = [
        "# What a calibration lets through, by the number of its texts",
        f"{_what_is_shown(result)} By `python benchmarks/calibration_power.py`.",
        _tables(result, "## "),
        _beside_half(result),
        "## Promises that are broken",
        f"At {result['confidence']:.0%} confidence at most {1 - result['confidence']:.0%} of them may be.",
        _broken(result),
    ]
    return "\n\n".join(part for part in parts if part)


def _what_is_shown(result: Result) -> str:
    splits = sorted({one["splits"] for one in result["cells"]})
    return (
        f"Mean FLOPs speed-up on the population, over {' or '.join(map(str, splits))} drawings of so many texts; in "
        "brackets how much of the allowed loss is used, on average. `one Speed`: a fixed grid for all heads, tested on "
        "all texts; `search`: criterion, heads and a Speed per layer, chosen by some of the texts and tested on the "
        "part that is given."
    )


def _tables(result: Result, heading: str) -> str:
    cells = result["cells"]
    ways = list(dict.fromkeys(one["way"] for one in cells))
    parts = []
    for promise in dict.fromkeys(one["promise"] for one in cells):
        lines = []
        for records in dict.fromkeys(one["records"] for one in cells):
            at = [one for one in cells if (one["promise"], one["records"]) == (promise, records)]
            for multiple in sorted({one["multiple"] for one in at}):
                here = {one["way"]: one for one in at if one["multiple"] == multiple}
                texts = next(iter(here.values()))["texts"]
                line = {"exits": records, "texts": f"{texts:,} ({multiple:g} times the fewest)"}
                lines.append(line | {way: _cell(here.get(way)) for way in ways})
        parts.append(f"{heading or '`'}{promise}{'' if heading else '`:'}\n\n{markdown_table(lines)}")
    return "\n\n".join(parts)


def _cell(found: Result | None) -> str:
    return "-" if found is None else f"{found['mean_speedup']:.2f}x ({found['loss_used']:.0%})"


def _beside_half(result: Result) -> str:
    """Return how much faster the rules of each other share are than those of a search that tests on half, drawing by
    drawing: the geometric mean over cells, in each of which drawings count alike."""
    half = "search, 1/2 test"
    cells: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for one in result["cells"]:
        place = tuple(str(one[name]) for name in ("records", "promise", "multiple"))
        cells.setdefault(place, {})[one["way"]] = one["speedups"]
    parts = []
    for way in dict.fromkeys(one["way"] for one in result["cells"] if one["way"].startswith("search")):
        both = [(place[0], found[way], found[half]) for place, found in cells.items() if way in found and half in found]
        both = [cell for cell in both if min(map(len, cell[1:])) > 1]  # one drawing has no error
        if way == half or not both:
            continue
        means: list[float] = []
        # Cells of the same records share their drawings.
        parts_of_drawings: defaultdict[tuple[str, int], float] = defaultdict(float)
        for records, found, base in both:
            ratios = [math.log(a / b) for a, b in zip(found, base, strict=False)]
            means.append(statistics.fmean(ratios))
            for drawing, one in enumerate(ratios):
                parts_of_drawings[records, drawing] += (one - means[-1]) / len(ratios) / len(both)
        mean, drawings = statistics.fmean(means), len(parts_of_drawings)
        error = math.sqrt(sum(part**2 for part in parts_of_drawings.values()) * drawings / (drawings - 1))
        parts.append(
            f"`{way}` {math.exp(mean):.3f}x (twice the standard error {2 * error:.3f}) over {len(both)} "
            f"{'cell' if len(both) == 1 else 'cells'}"
        )
    if not parts:
        return ""
    return f"FLOPs speed-up of the searches over `{half}`, the same drawings, geometric mean: {'; '.join(parts)}."


def _broken(result: Result) -> str:
    lines = []
    for way in dict.fromkeys(one["way"] for one in result["cells"]):
        of_way = [one for one in result["cells"] if one["way"] == way]
        broken, promises = sum(one["violations"] for one in of_way), sum(one["splits"] for one in of_way)
        seconds = statistics.fmean(one["seconds_of_processor_per_calibration"] for one in of_way)
        lines.append(
            {
                "way": way,
                "promises": f"{promises:,}",
                "broken": f"{broken} ({broken / promises:.1%})",
                "processor per calibration": f"{seconds:.2f} s",
            }
        )
    return markdown_table(lines)

"""The page beside the JSON file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from harness import markdown_table
from serving.names import NO_REFILL, ONNX, REFILL
from serving.search import LIMITS, median_goodput

# What refill should be worth: goodput over that without it and over the peer, p50 over that without it.
MARKS = {"over no refill": 1.5, "over ONNX Runtime": 5.0, "p50 over no refill": 0.6}
_KEYS = [f"{1e3 * limit:g}" for limit in LIMITS]


def page(result: dict[str, Any]) -> str:
    """Return the whole page of a result."""
    load = ", ".join(f"{load:.1f}" for load in result["load"])
    parts = [
        "# Served",
        "Open-loop arrivals on loopback, one text a request, latencies from the moment for which a request was "
        "planned. All contestants answer behind the same server, with the same tokeniser; ours run in "
        f"{result['dtype']}. {result['rounds']} round(s), contestants in turns and shuffled; medians. Loads of "
        f"{result['seconds']:g} s, of at least as many requests as a 99th percentile takes. Goodput: the highest load, "
        "in steps of 12 %, at which at most 1 % of the requests take longer than the limit. Bursts: the rate is three "
        "times the mean for a fifth of the time. Load of the machine over 1, 5 and 15 minutes before the run: "
        f"{load}. HTTP by {result['http']}.",
    ]
    for case in result["cases"]:
        parts += case_parts(case, result["not_available"])
    return "\n\n".join(parts)


def case_parts(case: dict[str, Any], not_available: dict[str, str]) -> list[str]:
    """Return what the page says of one case."""
    generator = case["generator"]
    parts = [
        f"## {case['subject']}, {case['arrivals']} arrivals",
        f"Texts of {case['mean_tokens']:.0f} tokens, which leave behind layer {case['mean_exit_layer']:.2f} of "
        f"{case['depth']} on average. The generator takes {generator['cpu_seconds_per_1000']:.2f} CPU seconds per "
        f"1,000 requests, and comes to 99 % of them within {1e3 * generator['p99_lateness']:.1f} ms of their moment.",
        goodput_table(case),
        latency_table(case),
        prediction_table(case),
        verdict(case),
    ]
    parts += [f"{name}: not available: {reason}" for name, reason in not_available.items()]
    return parts


def goodput_table(case: dict[str, Any]) -> str:
    """Return goodput by contestant, and how many of its labels are those of our full depth."""
    rows = []
    for name, check in case["checks"].items():
        if not any(one["contestant"] == name for one in case["searches"]):
            continue
        cells = {"requests per second": name}
        for limit, key in zip(LIMITS, _KEYS, strict=True):
            own = median_goodput(case["searches"], name, limit)
            base = median_goodput(case["searches"], NO_REFILL, limit) if NO_REFILL in case["checks"] else 0.0
            cells[f"p99 <= {key} ms"] = f"{own:.0f}" + (f" ({own / base:.2f}x)" if base else "")
        cells["always enough to do"] = f"{check['capacity']:.0f}"
        same = check["labels_of_full_depth"] / check["texts"]
        cells["labels of full depth"] = "-" if case["planned"] else f"{same:.1%}"  # random weights have no opinion
        rows.append(cells)
    return markdown_table(rows)


def latency_table(case: dict[str, Any]) -> str:
    """Return latencies and CPU seconds at equal load."""
    rows = []
    for name in dict.fromkeys(one["contestant"] for one in case["equal"]):
        cells = {"p50 / p95 / p99 in ms": name}
        for load in dict.fromkeys(one["rate"] for one in case["equal"]):
            found = [one for one in case["equal"] if one["contestant"] == name and one["rate"] == load]
            cells[f"{load:.0f} requests/s"] = _latencies(found)
            cells[f"CPU s per 1,000 at {load:.0f}/s"] = f"{_median(found, 'cpu_seconds_per_1000'):.2f}"
        rows.append(cells)
    return markdown_table(rows)


def prediction_table(case: dict[str, Any]) -> str:
    """Return the simulated goodput, refill over no refill, on each machine."""
    rows = []
    for name, servers in case["prediction"]["goodput"].items():
        cells = {"simulated requests per second": name}
        for key in _KEYS:
            more, less = servers["with refill"][key], servers["without refill"][key]
            cells[f"p99 <= {key} ms"] = f"{more:.0f} and {less:.0f}" + (f" ({more / less:.2f}x)" if less else "")
        rows.append(cells)
    return (
        "The same arrivals on a virtual clock, with the cost of a layer as measured on this machine: with refill and "
        "without.\n\n" + markdown_table(rows)
    )


def verdict(case: dict[str, Any]) -> str:
    """Return how the case stands against the marks, and what the simulation makes of it."""
    lines = []
    for title, other, mark in (
        ("goodput over no refill", NO_REFILL, MARKS["over no refill"]),
        ("goodput over ONNX Runtime int8", ONNX, MARKS["over ONNX Runtime"]),
    ):
        if not {REFILL, other} <= case["checks"].keys():
            continue
        found = []
        for limit in LIMITS:
            own, base = (median_goodput(case["searches"], name, limit) for name in (REFILL, other))
            found.append(f"{own / base:.2f}x" if base else ("above 0, where it has none" if own else "neither has any"))
        lines.append(f"- {title}: {found[0]} within {_KEYS[0]} ms, {found[1]} within {_KEYS[1]} ms (mark {mark:g}x)")
    for load in dict.fromkeys(one["rate"] for one in case["equal"]):
        own, base = (
            [one for one in case["equal"] if one["contestant"] == name and one["rate"] == load]
            for name in (REFILL, NO_REFILL)
        )
        if not own or not base or any(one["overloaded"] for one in (*own, *base)):
            continue
        (simulated,) = (one for one in case["prediction"]["latencies"] if one["rate"] == load)
        lines.append(
            f"- p50 at {load:.0f} requests/s: {_median(own, 'p50') / _median(base, 'p50'):.2f} of that without refill "
            f"(mark {MARKS['p50 over no refill']:g}; simulated "
            f"{simulated['with refill']['p50'] / simulated['without refill']['p50']:.2f})"
        )
    lines += _reasons(case["prediction"])
    return "\n".join(lines)


def _reasons(prediction: dict[str, Any]) -> list[str]:
    """Say why refilling is worth what it is: what fewer tokens save of a step, and what the server takes."""
    cost = prediction["cost"]
    smallest, full = cost["tokens"][0], cost["full"]
    each = {tokens: seconds / tokens for tokens, seconds in zip(cost["tokens"], cost["seconds"], strict=True)}
    return [
        f"- a layer is full from {full} tokens on: a token costs {1e6 * each[full]:.1f} us there, and "
        f"{1e6 * each[smallest]:.1f} us in a batch of {smallest}, so that batches which shrink lose "
        f"{each[smallest] / each[full]:.1f}x at most; the server around the model keeps the processors for "
        f"{1e3 * prediction['shell_seconds']:.2f} ms a text, which no schedule saves",
    ]


def _median(found: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(one[name] for one in found)


def _latencies(found: Sequence[dict[str, Any]]) -> str:
    if any(one["overloaded"] for one in found):
        return "overloaded"
    return " / ".join(f"{1e3 * _median(found, name):.1f}" for name in ("p50", "p95", "p99"))

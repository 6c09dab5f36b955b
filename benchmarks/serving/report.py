"""The page beside the JSON file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from fastbert_kernels.engine.layer_cost import STEP_SECONDS
from harness import markdown_table
from serving.names import NO_REFILL, ONNX, REFILL, SHELL
from serving.rounds import Known, goodputs, over, rate_in_words, ratio_in_words, told
from serving.search import LIMITS

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
        f"{result['dtype']}. {result['rounds']} round(s), contestants in turns and shuffled. Loads of "
        f"{result['seconds']:g} s, of at least as many requests as a 99th percentile takes. Goodput: the highest load, "
        'in steps of 12 %, at which at most 1 % of the requests take longer than the limit; "< N" where no load down '
        f"to about N was good. {_tries(result)}Of goodputs, and of ratios within a round, the range over the rounds is "
        "given, behind the median where there are three or more; latencies and CPU seconds are medians. Bursts: the "
        "rate is three times the mean for a fifth of the time. Load of the machine over 1, 5 and 15 minutes before the "
        f"run: {load}. HTTP by {result['http']}.",
    ]
    for case in result["cases"]:
        parts += case_parts(case, result["not_available"])
    return "\n\n".join(parts)


def _tries(result: dict[str, Any]) -> str:
    """Say how often a load is tried; results of before tried it once."""
    tries = result.get("tries", 1)
    return f"A load is too high where each of {tries} tries was, with seeds of their own. " if tries > 1 else ""


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
    """Return goodput by contestant, in brackets over that without refill, and how many of its labels are those of our
    full depth."""
    rows = []
    for name, check in case["checks"].items():
        if not any(one["contestant"] == name for one in case["searches"]):
            continue
        cells = {"requests per second": name}
        for limit, key in zip(LIMITS, _KEYS, strict=True):
            own, base = (goodputs(case["searches"], one, limit) for one in (name, NO_REFILL))
            ratio = over(own, base) if base and name != NO_REFILL else ""
            cells[f"p99 <= {key} ms"] = told([*own.values()], rate_in_words) + (f" ({ratio})" if ratio else "")
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
        for load, in_words in _loads(case).items():
            found = _at(case, name, load)
            cells[f"{in_words} requests/s"] = _latencies(found)
            cells[f"CPU s per 1,000 at {in_words}/s"] = f"{_median(found, 'cpu_seconds_per_1000'):.2f}"
        rows.append(cells)
    return markdown_table(rows)


def _loads(case: dict[str, Any]) -> dict[float, str]:
    """Return the equal loads, ascending, each in words that no other one has."""
    loads = sorted({one["rate"] for one in case["equal"]})
    rounded = {load: f"{load:.1f}" if load < 10 else f"{load:.0f}" for load in loads}
    return rounded if len({*rounded.values()}) == len(loads) else {load: f"{load:.1f}" for load in loads}


def _at(case: dict[str, Any], contestant: str, load: float) -> list[dict[str, Any]]:
    """Return what was found of a contestant at an equal load, a round each."""
    return [one for one in case["equal"] if one["contestant"] == contestant and one["rate"] == load]


def prediction_table(case: dict[str, Any]) -> str:
    """Return the simulated goodput, refill over no refill, on each machine."""
    rows = []
    for name, servers in case["prediction"]["goodput"].items():
        cells = {"simulated requests per second": name}
        for key in _KEYS:
            more, less = servers["with refill"][key], servers["without refill"][key]
            known = [f"{rate:.0f}" if rate else "none" for rate in (more, less)]
            cells[f"p99 <= {key} ms"] = " and ".join(known) + (f" ({more / less:.2f}x)" if more and less else "")
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
            own, base = (goodputs(case["searches"], name, limit) for name in (REFILL, other))
            both = " and ".join(told([*one.values()], rate_in_words) for one in (own, base))
            found.append(over(own, base) or f"unknown ({both})")
        lines.append(f"- {title}: within {_KEYS[0]} ms {found[0]}; within {_KEYS[1]} ms {found[1]} (mark {mark:g}x)")
    for load, in_words in _loads(case).items():
        own, base = _at(case, REFILL, load), _at(case, NO_REFILL, load)
        if not own or not base or any(one["overloaded"] for one in (*own, *base)):
            continue
        (simulated,) = (one for one in case["prediction"]["latencies"] if one["rate"] == load)
        p50, p50_of_base = ({one["round"]: Known.exactly(one["p50"]) for one in found} for found in (own, base))
        lines.append(
            f"- p50 at {in_words} requests/s: {over(p50, p50_of_base)} of that without refill "
            f"(mark {MARKS['p50 over no refill']:g}x; simulated "
            f"{simulated['with refill']['p50'] / simulated['without refill']['p50']:.2f}x)"
        )
    lines += _reasons(case)
    return "\n".join(lines)


def _reasons(case: dict[str, Any]) -> list[str]:
    """Say why refilling is worth what it is, and our server over the peer's engine."""
    lines = [_worth_of_full_batches(case["prediction"])]
    if {REFILL, ONNX} <= case["checks"].keys():
        lines += _most_over_onnx(case)
        lines += _cost_beside_onnx(case)
    return lines


def _worth_of_full_batches(prediction: dict[str, Any]) -> str:
    """Say what fewer tokens save of a layer, and what the server takes.

    What a step takes beside its layers is left out: a batch that shrinks within a call has it once, as full ones do. It
    is none of what was measured, but the program's; files from before it was written beside that have today's.
    """
    cost = prediction["cost"]
    smallest, full, step = cost["tokens"][0], cost["full"], cost.get("step_seconds", STEP_SECONDS)
    older = "" if "step_seconds" in cost else " today (the result file is older, and does not say)"
    each = {tokens: (seconds - step) / tokens for tokens, seconds in zip(cost["tokens"], cost["seconds"], strict=True)}
    return (
        f"- a step is full from {full} tokens on: less the {1e3 * step:g} ms that the schedule counts for each step"
        f"{older}, a token costs {1e6 * each[full]:.1f} us of a layer there, and {1e6 * each[smallest]:.1f} us in a "
        f"step of {smallest} tokens, so that batches which shrink lose {each[smallest] / each[full]:.1f}x at most; the "
        f"server around the model keeps the processors for {1e3 * prediction['shell_seconds']:.2f} ms a text, which no "
        "schedule saves"
    )


def _most_over_onnx(case: dict[str, Any]) -> list[str]:
    """Say how far ours would be ahead of ONNX Runtime if nobody minded waiting for full steps, within each limit in
    which that has a goodput in every round; and if the model cost nothing, unless noise has the server alone behind
    ours."""
    capacity = {name: check["capacity"] for name, check in case["checks"].items()}
    ours, alone = max(capacity[name] for name in (REFILL, NO_REFILL) if name in capacity), capacity[SHELL]
    lines = []
    for limit, key in zip(LIMITS, _KEYS, strict=True):
        base = goodputs(case["searches"], ONNX, limit).values()
        if not all(one.low for one in base):
            continue
        far, farthest = ([Known.exactly(most).over(one) for one in base] for most in (ours, alone))
        missed = all(one.high < MARKS["over ONNX Runtime"] for one in far)
        lines.append(
            f"- with refill or without, ours answers {ours:.0f} requests per second when there is always enough to do, "
            f"however long they take: {told(far, ratio_in_words)} of ONNX Runtime's goodput within {key} ms"
            + (", less than the mark even where nobody minds waiting" if missed else "")
            + (
                f"; with a model that costs nothing the server alone answers {alone:.0f}, "
                f"{told(farthest, ratio_in_words)}"
                if alone > ours
                else ""
            )
        )
    return lines


def _cost_beside_onnx(case: dict[str, Any]) -> list[str]:
    """Say what a text costs at its own depth here and at full depth there, at the highest load that both carry."""
    loads = _loads(case)
    by_load = {load: {name: _at(case, name, load) for name in (REFILL, ONNX, SHELL)} for load in loads}
    carried = [
        load
        for load, found in by_load.items()
        if not any(one["overloaded"] for measured in found.values() for one in measured)
    ]
    if not carried:
        return []
    load = carried[-1]
    own, base, alone = (_median(by_load[load][name], "cpu_seconds_per_1000") for name in (REFILL, ONNX, SHELL))
    exits = case["depth"] / case["mean_exit_layer"]
    if own <= alone:  # by noise: there is hardly anything to divide by
        return []
    times = (base - alone) / (own - alone)
    return [
        f"- at {loads[load]} requests/s the server takes {alone:.1f} CPU seconds per 1,000 texts for either, our model "
        f"{own - alone:.1f} and ONNX Runtime {base - alone:.1f}: {times:.2f}x, of which texts that leave behind layer "
        f"{case['mean_exit_layer']:.2f} of {case['depth']} on average are {exits:.2f}x, and all else "
        f"{times / exits:.2f}x"
    ]


def _median(found: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(one[name] for one in found)


def _latencies(found: Sequence[dict[str, Any]]) -> str:
    if any(one["overloaded"] for one in found):
        return "overloaded"
    return " / ".join(f"{1e3 * _median(found, name):.1f}" for name in ("p50", "p95", "p99"))

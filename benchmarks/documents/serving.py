"""What the documents say of FastBERT as a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pool_or_batches
import server_processes
from documents.rates import Results
from families import in_words
from serving.report import goodput_table, verdict
from soaking.clients import IN_FLIGHT


def served(results: Results) -> str:
    """Return goodput and how it stands against the marks, for every family and case."""
    parts = [
        _case(in_words(family, result), f"serving_cpu_{family}.md", case)
        for family, result in results.items()
        for case in result["cases"]
    ]
    return "\n\n".join(parts) or "Not measured yet."


def _case(processor: str, file: str, case: dict[str, Any]) -> str:
    return (
        f"{case['subject']}, {case['arrivals']} arrivals, texts of {case['mean_tokens']:.0f} tokens ({processor}: "
        f"[{file}](../benchmarks/results/{file}))\n\n{goodput_table(case)}\n\n{verdict(case)}"
    )


def soaked(results: Results) -> str:
    """Return what came of the server under load, for every family."""
    return _each(results, "soak", _soak)


def of_processes(results: Results) -> str:
    """Return one server process beside several, for every family."""
    return _each(results, "server_processes", server_processes.told)


def of_pool_or_batches(results: Results) -> str:
    """Return the pool beside a call for each batch, for every family."""
    return _each(results, "pool_or_batches", pool_or_batches.table)


def _each(results: Results, benchmark: str, told: Callable[[dict[str, Any]], str]) -> str:
    parts = []
    for family, result in results.items():
        file = f"{benchmark}_cpu_{family}.md"
        source = f"[{file}](../benchmarks/results/{file}), {result['machine']['date'][:10]}"
        parts.append(f"{in_words(family, result)} ({source}):\n\n{told(result)}")
    return "\n\n".join(parts) or "Not measured yet."


def _soak(result: dict[str, Any]) -> str:
    held, counts, rates = result["held"], result["requests"], [row["answered_per_second"] for row in result["rounds"]]
    refused = sum(count for name, count in counts.items() if name.startswith("told by") and name[-3:].isdigit())
    broken = sum(count for name, count in counts.items() if name.startswith("told by")) - refused
    bad = sum(count for name, count in counts.items() if name.endswith(("401", "413", "422")))
    lines = [
        f"{'held' if held else 'did not hold'}: {result['minutes']:g} minutes, {result['model']}, "
        f"{result['clients']} clients, {min(rates):.0f} to {max(rates):.0f} answers a second; load average of the "
        f"machine {result['load_average']:g}",
        *(f"fault: {fault}" for fault in result["faults"]),
        f"of {counts['asked']:,} requests {counts['answered']:,} were answered{', all rightly' if held else ''}; "
        f"{refused:,} were told to come again, and {broken:,} by their connection that the server was killed, started "
        "again or had ended",
        f"{bad:,} bad requests that wait for an answer were refused",
        f"memory {result['memory_mib_early']:.0f} MiB in the second fifth of the time, {result['memory_mib_late']:.0f} "
        f"MiB in the last (medians); {result['seconds_from_kill_to_ready']:.1f} seconds from SIGKILL until it listened "
        "again",
    ]
    if IN_FLIGHT not in counts:
        lines.append("whether any was dropped at SIGTERM was not looked at yet")
    elif held:
        lines.append(f"{counts[IN_FLIGHT]:,} were in flight at SIGTERM, and none of them was dropped")
    return "\n".join(f"- {line}" for line in lines)

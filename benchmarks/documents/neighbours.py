"""What the documents say of engines on cores that others use too."""

from __future__ import annotations

from typing import Any

from documents.rates import Results
from families import in_words
from harness import available, markdown_table
from neighbours import ALONE, BUSY, ONE_THREAD, PAIR, with_spread

_MARKS = {
    "": "mark for ours",
    "two processes together, over one alone": "at least 0.9",
    "their p99 over its": "at most 2.5",
    "beside a busy process: texts per CPU second, over those of one thread": "at least 0.8",
}


def neighbours(results: Results) -> str:
    """Return a table of every family: a row for every engine, and the marks in the first one."""
    return "\n\n".join(_section(family, result) for family, result in results.items()) or "Not measured yet."


def _section(family: str, result: dict[str, Any]) -> str:
    notes: list[str] = []
    rows = [_row(engine) for engine in available(result["engines"], "engine", notes)]
    file = f"neighbours_cpu_{family}.md"
    parts = [
        f"{in_words(family, result)}: {result['shape']} at full depth, batch {result['batch']}, {result['cores']} "
        f"cores and every process with {result['cores']} threads, {result['rounds']} rounds; load of the machine "
        f"before the run {result['load'][0]:.1f} ([{file}](../benchmarks/results/{file}), "
        f"{result['machine']['date'][:10]})",
        markdown_table([_MARKS, *rows]),
    ]
    return "\n\n".join([*parts, "\n".join(notes)] if notes else parts)


def _row(engine: dict[str, Any]) -> dict[str, str]:
    figures = (
        engine["engine"],
        with_spread(engine, PAIR, ALONE, "rate"),
        f"{engine['pair_p99']:.1f}",
        with_spread(engine, BUSY, ONE_THREAD, "rate_per_cpu_second"),
    )
    return dict(zip(_MARKS, figures, strict=True))

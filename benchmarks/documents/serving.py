"""What the documents say of FastBERT as a service."""

from __future__ import annotations

from typing import Any

from documents.rates import Results
from families import in_words
from serving.report import goodput_table, verdict


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

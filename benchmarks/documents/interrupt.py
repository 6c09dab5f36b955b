"""What the documents say of how long a call goes on after a signal."""

from __future__ import annotations

from documents.rates import Results
from families import in_words
from interrupt import TOKENS, table


def interrupted(results: Results) -> str:
    """Return a table of every family."""
    parts = []
    for family, result in results.items():
        file = f"interrupt_cpu_{family}.md"
        parts.append(
            f"{in_words(family, result)}: {result['shape']}, {result['texts']} texts of {TOKENS} tokens, "
            f"{result['threads']} threads ([{file}](../benchmarks/results/{file}), {result['machine']['date'][:10]}, "
            f"load of the machine before the run {result['load'][0]:.1f})\n\n{table(result)}"
        )
    return "\n\n".join(parts) or "Not measured yet."

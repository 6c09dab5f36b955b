"""The tables of what 16 and 8 bits change in trained models' answers."""

from __future__ import annotations

from typing import Any

from documents.rates import Results
from families import in_words
from harness import markdown_table

_SPEEDS = (0.3, 0.5)


def agreement(results: Results) -> str:
    """Return a table for every family and model: texts whose label or exit layer is another one than in float32."""
    return "\n\n".join(
        _section(in_words(family, result), f"agreement_cpu_{family}.md", model)
        for family, result in results.items()
        for model in result["models"]
    )


def _section(processor: str, file: str, model: dict[str, Any]) -> str:
    rows = []
    for precision, found in model["precisions"].items():
        at = {one["speed"]: f"{one['other_labels']}, {one['other_exit_layers']}" for one in found["speeds"]}
        rows.append(
            {
                "": precision,
                "labels, full depth": str(found["other_labels"]),
                **{f"labels, layers at Speed {speed:g}": at[speed] for speed in _SPEEDS},
                "uncertainties: mean difference": f"{found['uncertainty_mean']:.4f}",
            }
        )
    return (
        f"{model['name']}: {model['layers']} layers of {model['hidden_size']}, {model['texts']} texts, accuracy at "
        f"full depth in float32 {model['float32_accuracy']:.1%} ({processor}: "
        f"[{file}](../benchmarks/results/{file}))\n\n{markdown_table(rows)}"
    )

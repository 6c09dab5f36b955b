"""The tables of the comparison: samples per second, and speed-ups of a trained model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comparing.report import fastest_peer
from families import in_words
from harness import markdown_table

DTYPES = ("float32", "bfloat16", "int8")
_BATCHES = (1, 8, 32)
DEPTH_4 = "mean depth 4 of 12"
_NONE = "-"

Results = dict[str, dict[str, Any]]
Case = dict[str, Any]


def sources(comparisons: Results, profiles: Results) -> str:
    """Return a line for every family: what its tables were measured with, and when."""
    lines = []
    for family in sorted({*comparisons, *profiles}):
        files = {"comparison": comparisons.get(family), "profile_encoder": profiles.get(family)}
        found = {name: result for name, result in files.items() if result is not None}
        result = next(iter(found.values()))
        machine = result["machine"]
        versions = {**machine["versions"], **result.get("versions", {})}
        packages = ", ".join(
            f"{name} {versions[name]}"
            for name in ("torch", "transformers", "onnxruntime", "openvino")
            if versions.get(name)
        )
        links = " and ".join(f"[{name.split('_')[0]}](../benchmarks/results/{name}_cpu_{family}.md)" for name in found)
        load = f", load of the machine before the run {result['load'][0]:.1f}" if "load" in result else ""
        lines.append(
            f"- **{in_words(family, result)}** ({', '.join(machine['extensions'])}): {links} on "
            f"{machine['threads']} cores, {machine['date'][:10]}, {packages}{load}."
        )
    return "\n".join(lines)


def charts(comparisons: Results) -> str:
    """Return the chart of every family."""
    return "\n".join(
        f"![Samples per second of every contestant on {in_words(family, result)}]"
        f"(../benchmarks/results/comparison_cpu_{family}.png)"
        for family, result in comparisons.items()
    )


def rates(comparisons: Results) -> str:
    """Return samples per second of BERT-base at mixed lengths, a column for every family and batch."""
    rows: list[tuple[str, Callable[[Case], dict[str, Any] | None]]] = [
        ("Transformers eager float32", lambda case: find_row(case, "Transformers eager float32")),
        ("fastest peer at full depth", fastest_peer),
        (
            "plain PyTorch adaptive, boolean indexing",
            lambda case: find_row(case, "plain PyTorch adaptive float32", DEPTH_4),
        ),
    ]
    for dtype in DTYPES:
        rows.append((f"ours patched {dtype}", lambda case, name=f"ours patched {dtype}": find_row(case, name, DEPTH_4)))
    table = []
    for title, select in rows:
        cells = {"": title}
        for family, result in comparisons.items():
            for batch in _BATCHES:
                case = find_case(result, "BERT-base", batch, "mixed")
                row = None if case is None else select(case)
                cells[f"{in_words(family, result)}: batch {batch}"] = _rate(row, title)
        table.append(cells)
    return markdown_table(table)


def trained(comparisons: Results) -> str:
    """Return the speed-ups of the demo's model over Transformers eager float32, a column for every family and dtype.

    A family whose comparison was run without that model is left out.
    """
    cases = {
        family: case
        for family, result in comparisons.items()
        if (case := find_case(result, "model", 32, "texts")) is not None
    }
    runs = dict.fromkeys(
        row["run"] for case in cases.values() for row in case["rows"] if row["contestant"] == "ours patched float32"
    )
    table = []
    for run in runs:
        cells = {"": run}
        for family, case in cases.items():
            for dtype in DTYPES:
                row = find_row(case, f"ours patched {dtype}", run)
                depth = "" if row is None else f", {row['mean_exit_layer']:.1f} layers"
                heading = f"{in_words(family, comparisons[family])}: {dtype}"
                cells[heading] = f"{_speedup(row)}{depth if run != 'full depth' else ''}"
        table.append(cells)
    return markdown_table(table)


def find_case(result: dict[str, Any], shape: str, batch: int, kind: str) -> Case | None:
    """Return the configuration, or `None` where it was not measured."""
    wanted = (shape, batch, kind)
    cases = result["configurations"]
    return next((case for case in cases if (case["shape"], case["batch"], case["kind"]) == wanted), None)


def find_row(case: Case, contestant: str, run: str = "full depth") -> dict[str, Any] | None:
    """Return the row of a contestant, or `None` where it did not take part."""
    return next((row for row in case["rows"] if (row["contestant"], row["run"]) == (contestant, run)), None)


def _rate(row: dict[str, Any] | None, title: str) -> str:
    if row is None:
        return _NONE
    peer = "" if row["contestant"].startswith(title[:12]) else f", {row['contestant']}"
    return f"{row['samples_per_second']['p50']:.3g} ({_speedup(row)}{peer})"


def _speedup(row: dict[str, Any] | None) -> str:
    if row is None:
        return _NONE
    return f"{row['speedup']:.2g}x" if row["agrees"] else "outputs disagree"

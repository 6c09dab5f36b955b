"""The results of the comparison as tables, from what the JSON file holds."""

from __future__ import annotations

import importlib.metadata
import statistics
from typing import Any

from comparing.ratios import Ratio
from harness import load_before, markdown_table
from peers.contestant import FULL_DEPTH_PEER, OURS

_PACKAGES = ("onnx", "onnxruntime", "openvino", "fastbert", "numpy")
_COLUMNS = (
    "contestant",
    "run",
    "mean exit layer",
    "samples/s (p20 to p80)",
    "over eager float32 (p20 to p80)",
    "FLOPs speed-up",
    "realisation",
    "peak memory",
    "largest logit error",
    "same labels",
)


def peer_versions() -> dict[str, str | None]:
    """Return the versions of what the contestants are made of, besides what `describe_machine` lists."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def title(case: dict[str, Any]) -> str:
    share = sum(case["lengths"]) / case["padded_tokens"]
    kind = case["kind"] if case["kind"] == "texts" else f"{case['kind']} lengths"
    return (
        f"{case['shape']}, batch {case['batch']}, {kind}: {case['samples']} samples, "
        f"{case['mean_length']:.1f} tokens on average, {share:.0%} of the padded batches; {case['rounds']} rounds"
    )


def table_rows(case: dict[str, Any], baseline: str) -> list[dict[str, str]]:
    """Return the lines of a configuration's table; speed-ups are over the contestant named `baseline`."""
    base = next((row for row in case["rows"] if row["contestant"] == baseline), None)
    return [_cells(row, base) for row in case["rows"]]


def _cells(row: dict[str, Any], base: dict[str, Any] | None) -> dict[str, str]:
    """One line of a table. Where the outputs disagree, no speed-up is given."""
    over_base = "-" if base is None else str(Ratio.of(base, row))
    speed = row["samples_per_second"]
    peak = row["peak_bytes"]
    values = (
        row["contestant"],
        row["run"],
        f"{row['mean_exit_layer']:.2f}",
        f"{speed['p50']:.4g} ({speed['p20']:.4g} to {speed['p80']:.4g})",
        over_base if row["agrees"] else "outputs disagree",
        f"{row['flops_speedup']:.2f}x",
        f"{row['realisation']:.2f}" if "realisation" in row else "-",
        "-" if peak is None else f"{peak / 2**20:.0f} MiB",
        f"{row['logit_error']:.1e}",
        "-" if row["same_labels"] is None else f"{row['same_labels']:.1%}",
    )
    return dict(zip(_COLUMNS, values, strict=True))


def fastest_peer(case: dict[str, Any], dtype: str | None = None) -> dict[str, Any] | None:
    """Return the row of the fastest full-depth peer, in this dtype or in any; `None` where there is none.

    A peer counts even where its outputs disagree: leaving it out would only make ours look better.
    """
    peers = [row for row in case["rows"] if row["group"] == FULL_DEPTH_PEER and dtype in (None, row["dtype"])]
    return min(peers, key=lambda peer: statistics.median(peer["seconds"]), default=None)


def against_fastest(case: dict[str, Any]) -> list[str]:
    """Return lines on ours over the fastest full-depth peer, in the same dtype and in any."""
    lines = []
    for row in case["rows"]:
        if row["group"] != OURS or not row["agrees"] or not row["contestant"].startswith("ours patched"):
            continue
        parts = []
        for where, dtype in ((row["dtype"], row["dtype"]), ("any dtype", None)):
            if (best := fastest_peer(case, dtype)) is not None:
                name = best["contestant"] + ("" if best["agrees"] else ", whose outputs disagree")
                parts.append(f"{Ratio.of(best, row)} the fastest full-depth peer in {where} ({name})")
        if parts:
            lines.append(f"{row['contestant']}, {row['run']}: {', '.join(parts)}")
    return lines


def below(case: dict[str, Any]) -> list[str]:
    """Return what is written under a table."""
    return [*against_fastest(case), *(f"{name} failed: {reason}" for name, reason in case["failed"].items())]


def markdown_section(case: dict[str, Any], baseline: str) -> str:
    """One configuration; speed-ups are over the contestant named `baseline`."""
    parts = [f"## {title(case)}", markdown_table(table_rows(case, baseline))]
    if lines := below(case):
        parts.append("\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts)


def missing(result: dict[str, Any]) -> list[str]:
    """Contestants that could not take part."""
    return [
        f"{shape}: {name}: not available: {entry['not_available']}"
        for shape, contestants in result["contestants"].items()
        for name, entry in contestants.items()
        if "not_available" in entry
    ]


def markdown(result: dict[str, Any]) -> str:
    """The page beside the JSON file."""
    done, planned = len(result["configurations"]), result["planned_configurations"]
    parts = ["# Comparison"]
    if result["partial"]:
        parts.append(f"Partial: {done} of {len(planned)} configurations; missing: {'; '.join(planned[done:])}.")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    parts.append(
        "Same padded batches for all, interleaved, shuffled within a round; speed-ups are medians of the ratios within "
        f"a round, with p20 to p80 of these. over eager: over {result['baseline']}. FLOPs speed-up: at the samples' "
        "own lengths. Realisation: "
        "speed-up over the same model in the same engine at full depth, divided by the FLOPs speed-up. Largest logit "
        f"error: from {result['baseline']} at the same exit. Memory: {result['peak_memory']}. "
        f"{result['threads']} threads; {versions}."
    )
    if "load" in result:
        parts.append(
            f"{load_before(result)}. Where that is more than a fraction of a core, others were on these cores "
            "too, and only ratios within a round count."
        )
    parts += [markdown_section(case, result["baseline"]) for case in result["configurations"]]
    if absent := missing(result):
        parts += ["## Not available", "\n".join(f"- {line}" for line in absent)]
    return "\n\n".join(parts)

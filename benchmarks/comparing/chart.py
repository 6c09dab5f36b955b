"""The chart of the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peers.contestant import ADAPTIVE_PEER, FULL_DEPTH_PEER, OURS, STATIC_PEER

# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = {FULL_DEPTH_PEER: "#999999", STATIC_PEER: "#E69F00", ADAPTIVE_PEER: "#CC79A7", OURS: "#0072B2"}
_BATCH, _DEPTH = 32, 4.0  # shown where measured, else what comes nearest


def pick(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One configuration per shape: not all of full length, batch nearest to 32."""
    picked: dict[str, dict[str, Any]] = {}
    for case in result["configurations"]:
        best = picked.get(case["shape"])
        if best is None or _rank(case) < _rank(best):
            picked[case["shape"]] = case
    return list(picked.values())


def _rank(case: dict[str, Any]) -> tuple[bool, int]:
    return case["kind"] == "full", abs(case["batch"] - _BATCH)


def bars(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows at full depth and at the depth (or Speed) nearest to 4 of 12, whose outputs agree; slowest first."""
    depth = min(case["depths"], key=lambda value: abs(value - _DEPTH))
    labels = (f"mean depth {depth:g} of", f"Speed {depth:g}")
    rows = [
        row
        for row in case["rows"]
        if row["agrees"] and (row["run"].startswith(labels) or not row["run"].startswith(("mean depth", "Speed")))
    ]
    return sorted(rows, key=lambda row: row["samples_per_second"]["p50"])


def draw(result: dict[str, Any], path: Path) -> None:
    """Samples per second with p20 and p80, one panel per shape; the figures are speed-ups over Transformers eager."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    cases = pick(result)
    height = max(len(bars(case)) for case in cases)
    figure = Figure(figsize=(7.5 * len(cases), 1.5 + 0.28 * height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        rows = bars(case)
        speeds = [row["samples_per_second"] for row in rows]
        middle = [speed["p50"] for speed in speeds]
        spread = [[s["p50"] - s["p20"] for s in speeds], [s["p80"] - s["p50"] for s in speeds]]
        names = [f"{row['contestant']}, {row['run']}" for row in rows]
        axes.barh(names, middle, xerr=spread, color=[_COLOURS[row["group"]] for row in rows], ecolor="#444444")
        for position, (row, speed) in enumerate(zip(rows, speeds, strict=True)):
            text = f" {row['speedup']:.1f}x" if "speedup" in row else ""
            axes.text(speed["p80"], position, text, va="center", fontsize=7)
        axes.tick_params(axis="y", labelsize=7)
        axes.margins(x=0.1, y=0.01)
        axes.set_xlabel("samples per second")
        axes.set_title(
            f"{case['shape']}, batch {case['batch']}, {case['kind']} (mean length {case['mean_length']:.0f})",
            fontsize=9,
        )
        shown = dict.fromkeys(row["group"] for row in rows)
        axes.legend(handles=[Patch(color=_COLOURS[group], label=group) for group in shown], fontsize=7)
    figure.savefig(path, dpi=150)

"""The picture of accuracy against time: a panel for each data set and processor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from measured.point import Kind, Point

# Okabe and Ito's colours, told apart by colour-blind readers too; and markers, for print without colours.
_STYLES = {
    Kind.BAG: ("#000000", "*"),
    Kind.PEER: ("#999999", "s"),
    Kind.EARLY_PEER: ("#CC79A7", "v"),
    Kind.STATIC: ("#E69F00", "D"),
    Kind.FULL: ("#009E73", "^"),
    Kind.EARLY: ("#0072B2", "o"),
}
_COLUMNS = 2


def panels(points: Iterable[Point]) -> dict[tuple[str, str], list[Point]]:
    """Return the points that have both accuracy and time by data set and processor, where there are two or more."""
    found: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        if point.accuracy is not None and point.seconds is not None:
            found.setdefault((point.data, point.processor), []).append(point)
    return {name: own for name, own in sorted(found.items()) if len(own) > 1}


def mark(points: Iterable[Point]) -> str:
    """Return what the picture of these points carries in its file, so that it is known for theirs."""
    return hashlib.sha256(repr(panels(points)).encode()).hexdigest()


def is_of(path: Path, points: Iterable[Point]) -> bool:
    """Return whether the file is the picture of these points."""
    return path.exists() and mark(points).encode() in path.read_bytes()


def draw(points: list[Point], path: Path) -> None:
    """Write the picture as a PNG; a line joins the settings of one series, a dotted one is a bag that has its time from
    another processor."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    found = panels(points)
    rows = -(-len(found) // _COLUMNS)
    figure = Figure(figsize=(6.5 * _COLUMNS, 0.8 + 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat[len(found) :]:
        axes.set_visible(False)
    for axes, ((data, processor), own) in zip(grid.flat, found.items(), strict=False):
        _draw_panel(axes, own)
        bags = {point.accuracy for point in points if point.data == data and point.kind is Kind.BAG} - {None}
        if not any(point.kind is Kind.BAG for point in own):
            for accuracy in sorted(bags, key=float):
                axes.axhline(100 * accuracy, color=_STYLES[Kind.BAG][0], linestyle=":", linewidth=0.9)
        axes.set_title(f"{data}, {processor}", fontsize=10)
    shown = [kind for kind in Kind if any(point.kind is kind for own in found.values() for point in own)]
    handles = [
        Line2D([], [], color=_STYLES[kind][0], marker=_STYLES[kind][1], linestyle="none", label=kind.value)
        for kind in shown
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(shown), fontsize=9, frameon=False)
    figure.supxlabel("seconds per 1,000 texts", fontsize=10)
    figure.supylabel("accuracy (percent)", fontsize=10)
    figure.savefig(path, dpi=130, metadata={"Description": mark(points)})


def _draw_panel(axes: Any, points: list[Point]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for series, kind in dict.fromkeys((point.series, point.kind) for point in points):
        own = sorted(
            (point for point in points if (point.series, point.kind) == (series, kind)),
            key=lambda point: (point.seconds, point.accuracy),
        )
        colour, marker = _STYLES[kind]
        accuracies = [100 * (point.accuracy or 0) for point in own]
        axes.plot([point.seconds for point in own], accuracies, "-", color=colour, marker=marker, markersize=6)
        if len(own) > 1:
            name, place = series.partition(" layers, ")[2] or series, (own[0].seconds, accuracies[0])
            axes.annotate(name, place, xytext=(4, -9), textcoords="offset points", fontsize=6.5, color=colour)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.12)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)

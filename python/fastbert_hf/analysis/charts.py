"""The charts of an analysis as PNG files.

Colours are Okabe and Ito's, told apart by colour-blind readers; markers, line styles and hatches tell the same things
apart in grey.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fastbert_hf.analysis.analyzing import Analysis
from fastbert_hf.analysis.exits import Changes, ExitDistribution
from fastbert_hf.analysis.uncertainty import (
    BINS,
    ENOUGH_TEXTS,
    HeadAccuracy,
    UncertaintyAtSpeed,
    UncertaintyInterval,
)

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"),
)
WIDTH = 7.2  # inches: letters are still readable on a phone
# More layers than that do not fit beside each other twice, with figures that can be read.
_MOST_IN_A_COLUMN = 8
_MOST_LABELLED_BARS = 14


def new_figure(height: float) -> Figure:
    """An empty figure of the report's width; `height` in inches."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(h_pad=0.07))
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure) -> bytes:
    """`figure` as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def tidy(axes: Axes) -> None:
    """Only the lines that help to read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)


def accuracy_by_uncertainty_chart(analysis: Analysis) -> bytes:
    """Accuracy in every interval of the uncertainty, and below it how many samples lie there; a column per head."""
    heads = analysis.accuracy_by_uncertainty
    figure = new_figure(4.6)
    grid = figure.subplots(2, len(heads), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1.3))
    styles = ((BLUE, "o"), (GREEN, "s"), (VERMILLION, "^"))
    for head, above, below, (colour, marker) in zip(heads, *grid, styles, strict=False):
        filled = head.with_at_least(1)
        _draw_accuracy(above, head.with_at_least(ENOUGH_TEXTS), color=colour, marker=marker, linewidth=1.5)
        few = [interval for interval in filled if interval.samples < ENOUGH_TEXTS]
        _draw_accuracy(
            *(above, few), color=colour, marker=marker, linestyle="none", markerfacecolor="white", elinewidth=0.8
        )
        below.bar([_middle(one) for one in filled], [one.samples for one in filled], width=0.085, color=colour)
        above.set_title(_name(head), fontsize=10)
        below.set_xticks(np.arange(0, 1.01, 0.2))
        below.set_xlim(0, 1)
        tidy(above)
        tidy(below)
    grid[0, 0].set_ylabel("accuracy")
    grid[0, 0].set_ylim(0, 1.03)
    grid[0, 0].yaxis.set_major_formatter(PercentFormatter(1))
    grid[1, 0].set_ylabel("texts")
    grid[1, 0].yaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.supxlabel("uncertainty (normalised entropy, from 0 to 1)", fontsize=10)
    return as_png(figure)


def uncertainty_chart(analysis: Analysis) -> bytes:
    """Distribution of the uncertainty of what reaches each layer, mirrored about the layer; a panel per Speed."""
    columns = 1 if len(analysis.exit_layers) > _MOST_IN_A_COLUMN else 2
    figure, grid = _panels(len(analysis.uncertainty), columns, 0.6, 2.7)
    for axes, at_speed in zip(grid.flat, analysis.uncertainty, strict=False):
        _draw_distributions(axes, at_speed)
    for axes in grid[:, 0]:
        axes.set_ylabel("uncertainty")
    figure.supxlabel("layer, and below it the texts that reach it", fontsize=10)
    return as_png(figure)


def exits_chart(analysis: Analysis) -> bytes:
    """Share of the samples that leave behind each layer; a panel per Speed."""
    columns = 1 if len(analysis.exit_layers) > _MOST_LABELLED_BARS else 2
    figure, grid = _panels(len(analysis.exits), columns, 0.9, 2.1, sharex=True)
    highest = max(max(exits.samples) for exits in analysis.exits) / analysis.samples
    for axes, exits in zip(grid.flat, analysis.exits, strict=False):
        _draw_exits(axes, exits, highest)
        axes.set_xticks(analysis.exit_layers)
    grid[0, 0].yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    for axes in grid[:, 0]:
        axes.set_ylabel("share of texts")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.supxlabel("exit layer", fontsize=10)
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return as_png(figure)


def changes_chart(analysis: Analysis) -> bytes:
    """Draw what the last layer corrects and spoils if everybody left behind one layer, and of what leaves by Speed."""
    number = len(analysis.changes_by_layer)
    if number > _MOST_IN_A_COLUMN:
        figure = new_figure(6.4)
        left, right = figure.subplots(2, 1, sharey=True)
        right.set_ylabel("share of all texts")
    else:
        figure = new_figure(4.0)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(max(number, 4), 4))
    layers = [str(one.layer) for one in analysis.changes_by_layer]
    speeds = [f"{one.speed:g}" for one in analysis.changes_at_speed]
    _draw_changes(left, layers, [one.changes for one in analysis.changes_by_layer], analysis.samples)
    _draw_changes(right, speeds, [one.total for one in analysis.changes_at_speed], analysis.samples)
    left.set_title("if every text left behind one layer", fontsize=10)
    left.set_xlabel("layer")
    left.set_ylabel("share of all texts")
    left.yaxis.set_major_formatter(lambda share, _: f"{abs(100 * share):.3g}%")
    right.set_title("what leaves early at a Speed", fontsize=10)
    right.set_xlabel("Speed")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return as_png(figure)


def _panels(
    number: int, columns: int, around: float, each: float, sharex: bool = False
) -> tuple[Figure, npt.NDArray[Any]]:
    """Return a figure and its axes [rows, columns], of which `number` are seen; `around` and `each` row in inches."""
    rows = -(-number // columns)
    figure = new_figure(around + each * rows)
    grid = figure.subplots(rows, columns, sharex=sharex, sharey=True, squeeze=False)
    for axes in grid.flat[number:]:
        axes.set_visible(False)
    return figure, grid


def _draw_accuracy(axes: Axes, intervals: Sequence[UncertaintyInterval], **style: Any) -> None:
    bands = np.asarray([interval.band for interval in intervals], dtype=np.float64).reshape(-1, 2)
    accuracy = np.asarray([interval.accuracy for interval in intervals], dtype=np.float64)
    errors = np.abs(bands.T - accuracy)
    axes.errorbar([_middle(one) for one in intervals], accuracy, errors, markersize=5, capsize=2.5, **style)


def _middle(interval: UncertaintyInterval) -> float:
    return (interval.low + interval.high) / 2


def _name(head: HeadAccuracy) -> str:
    return f"layer {head.layer}, {'teacher classifier' if head.teacher else 'student classifier'}"


def _draw_distributions(axes: Axes, at_speed: UncertaintyAtSpeed) -> None:
    heights = np.repeat(np.linspace(0, 1, BINS + 1), 2)[1:-1]
    for place, layer in enumerate(at_speed.layers):
        counts = np.asarray(layer.counts)
        if counts.any():
            halves = 0.44 * np.repeat(counts / counts.max(), 2)
            axes.fill_betweenx(heights, place - halves, place + halves, color=SKY, linewidth=0)
        if layer.quartiles is not None:
            first, median, third = layer.quartiles
            axes.plot([place, place], [first, third], color=BLUE, linewidth=2.5, solid_capstyle="butt")
            axes.plot(place, median, color=BLUE, marker="D", markersize=5, markeredgecolor="white")
    if at_speed.speed > 0:
        axes.axhline(at_speed.speed, color=VERMILLION, linestyle="--", linewidth=1.2)
    axes.set_title(f"Speed {at_speed.speed:g}" + (": nobody leaves early" if at_speed.speed == 0 else ""), fontsize=10)
    axes.set_xticks(range(len(at_speed.layers)), [f"{one.layer}\n{_short(one.arriving)}" for one in at_speed.layers])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.6, len(at_speed.layers) - 0.4)
    tidy(axes)


def _draw_exits(axes: Axes, exits: ExitDistribution, highest: float) -> None:
    shares = np.asarray(exits.samples) / sum(exits.samples)
    bars = axes.bar(exits.layers, shares, width=0.75, color=SKY)
    if len(shares) <= _MOST_LABELLED_BARS:
        _label(axes, bars, shares)
    # Above the bars, where they cover nothing.
    options: dict[str, Any] = {"linestyle": "none", "transform": axes.get_xaxis_transform()}
    axes.plot(exits.mean, 0.83, color=VERMILLION, marker="v", markersize=8, label="mean", **options)
    axes.plot(exits.median, 0.93, color=BLACK, marker="D", markersize=6, fillstyle="none", label="median", **options)
    axes.set_title(f"Speed {exits.speed:g}: mean {exits.mean:.2f}, median {exits.median:g}", fontsize=10)
    axes.set_ylim(0, 1.45 * highest)
    axes.set_yticks([tick for tick in MaxNLocator(4).tick_values(0, highest) if tick <= highest])
    tidy(axes)
    axes.spines["left"].set_bounds(0, highest)


def _draw_changes(axes: Axes, names: Sequence[str], changes: Sequence[Changes], samples: int) -> None:
    corrected = np.asarray([one.wrong_then_right for one in changes]) / samples
    spoilt = np.asarray([one.right_then_wrong for one in changes]) / samples
    options: dict[str, Any] = {"width": 0.7, "edgecolor": "white", "linewidth": 0}
    up = axes.bar(names, corrected, color=BLUE, label="wrong there, right at the last layer", **options)
    down = axes.bar(names, -spoilt, color=ORANGE, hatch="///", label="right there, wrong at the last layer", **options)
    axes.axhline(0, color=BLACK, linewidth=0.8)
    if len(names) <= _MOST_LABELLED_BARS:
        _label(axes, up, corrected)
        _label(axes, down, spoilt, zero="")
    axes.margins(y=0.12)
    tidy(axes)


def _short(number: int) -> str:
    """At most four letters: 9999, 10k."""
    return str(number) if number < 10_000 else f"{number / 1000:.0f}k"


def _label(axes: Axes, bars: BarContainer, shares: npt.NDArray[np.float64], zero: str = "0") -> None:
    """Percentages at the ends of bars; smaller where there are many."""
    texts = [f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.1f}" for share in shares]
    texts = [zero if share == 0 else text for share, text in zip(shares, texts, strict=True)]
    axes.bar_label(bars, texts, padding=2, fontsize=8 if len(texts) <= 8 else 6.5, color="#222222")

"""Charts of accuracy against speed-up, in FLOPs and on the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import Bbox

from fastbert_hf.analysis.analyzing import Analysis
from fastbert_hf.analysis.charts import BLACK, BLUE, GREEN, PURPLE, VERMILLION, as_png, new_figure, tidy
from fastbert_hf.analysis.tradeoff import FASTEST_SHOWN, Point, Tradeoff

# Of a model: its exits, and its static models.
_ANALYSED: tuple[dict[str, Any], dict[str, Any]] = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": GREEN, "marker": "s", "linestyle": "--"},
)
_COMPARED: tuple[dict[str, Any], dict[str, Any]] = (
    {"color": VERMILLION, "marker": "^", "linestyle": "-."},
    {"color": PURPLE, "marker": "D", "linestyle": ":"},
)
# Where a label may stand about its point, in points of 1/72 inch; the first that is free is taken.
_PLACES = [
    (distance * x, distance * y)
    for distance in (9, 15)
    for x, y in ((0, 1), (0, -1), (1, 0.6), (-1, 0.6), (1, -0.6), (-1, -0.6), (1.2, 0), (-1.2, 0))
]

_TICKS = (0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48)
_FEW_TICKS, _MANY = (0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48), 16  # and from which ratio of the ends on

Speedup = Callable[[Point], float | None]


def flops_chart(analysis: Analysis) -> bytes:
    """Accuracy against the FLOPs speed-up: every Speed, the marked ones, and static models of fewer layers."""
    return _chart(analysis, "FLOPs speed-up over full depth", lambda point: point.flops_speedup, curves=True)


def wall_clock_chart(analysis: Analysis) -> bytes:
    """The same against the measured speed-up, for the marked Speeds and the static models that were timed."""

    def measured(point: Point) -> float | None:
        return None if point.wall_clock is None else point.wall_clock.speedup

    return _chart(analysis, "measured speed-up over full depth", measured, curves=False)


def _chart(analysis: Analysis, horizontal: str, speedup_of: Speedup, *, curves: bool) -> bytes:
    figure = new_figure(5.0)
    axes = figure.add_subplot()
    low, high = analysis.tradeoff.full_depth.accuracy_interval
    band = f"{analysis.confidence:.0%} interval of the accuracy at full depth, {analysis.samples:,} texts"
    axes.axhspan(low, high, color="#ececec", linewidth=0, label=band, zorder=0)
    if analysis.baseline is not None:
        name = f"bag of {analysis.baseline.unit} (TF-IDF, logistic regression), at any speed-up"
        axes.axhline(analysis.baseline.accuracy, label=name, color=BLACK, linestyle=(0, (1, 2)), linewidth=1.3)
    several = analysis.compared is not None
    labels = _draw(axes, analysis.tradeoff, _ANALYSED, "analyzed model: " if several else "", speedup_of, curves)
    if analysis.compared is not None:
        labels += _draw(axes, analysis.compared, _COMPARED, "compared model: ", speedup_of, curves)
    drawn = [float(x) for line in axes.get_lines() for x in np.ravel(line.get_xdata())]
    if max(drawn) > FASTEST_SHOWN:
        axes.set_xscale("log")
        axes.set_xlim(right=FASTEST_SHOWN)
    return finished(figure, axes, horizontal, labels)


def finished(figure: Figure, axes: Axes, horizontal: str, labels: Sequence[Annotation]) -> bytes:
    """Return a chart of accuracy against speed-up as a PNG file: with axes, legend and labels that cover nothing.

    Args:
        figure: of one chart.
        axes: its axes, with everything drawn.
        horizontal: which speed-up it is.
        labels: of its points, see `label`, the more important first.
    """
    axes.set_xlabel(horizontal)
    # The speed-ups of L / k layers lie evenly on it.
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator(_FEW_TICKS if high > _MANY * low else _TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.margins(x=0.06, y=0.1)
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    figure.canvas.draw()  # lays out, so that places on the page are known
    _place(axes, labels)
    return as_png(figure)


def _draw(
    axes: Axes, tradeoff: Tradeoff, styles: tuple[dict[str, Any], ...], model: str, speedup_of: Speedup, curves: bool
) -> list[Annotation]:
    """Draw one model and return the labels of its points, the more important first, not placed yet."""
    exits, static = styles
    labels = []
    marked = [(speedup, point) for point in tradeoff.speeds if (speedup := speedup_of(point)) is not None]
    x, y = [speedup for speedup, _ in marked], [point.accuracy for _, point in marked]
    name = f"{model}early exits (labels: Speed)"
    if curves:
        axes.plot(
            *(tradeoff.curve.flops_speedup, tradeoff.curve.accuracy),
            **{"color": exits["color"], "linestyle": exits["linestyle"], "linewidth": 1.3},
        )
        axes.plot([], [], label=name, **exits)
        axes.plot(x, y, **(exits | {"linestyle": "none"}), zorder=4)
    else:
        axes.plot(x, y, label=name, **exits, linewidth=1.3, zorder=4)
    labels += [label(axes, speedup, point.accuracy, f"{point.value:g}", exits["color"]) for speedup, point in marked]

    depths = [(speedup, point) for point in tradeoff.depths if (speedup := speedup_of(point)) is not None]
    x, y = [speedup for speedup, _ in depths], [point.accuracy for _, point in depths]
    axes.plot(x, y, label=f"{model}only the first layers, no exits (labels: layers)", **static, linewidth=1.1)
    labels += [
        label(axes, speedup, point.accuracy, f"{point.value:g}", static["color"]) for speedup, point in reversed(depths)
    ]

    calibrated = tradeoff.calibrated
    if calibrated is not None and (speedup := speedup_of(calibrated)) is not None:
        style = {"color": BLACK, "marker": "*", "markersize": 13, "markerfacecolor": exits["color"]}
        axes.plot(speedup, calibrated.accuracy, label=f"{model}calibrated setting", linestyle="none", zorder=5, **style)
    return labels


def label(axes: Axes, speedup: float, accuracy: float, text: str, color: str) -> Annotation:
    """Return the label of a point, not placed yet."""
    annotation = axes.annotate(
        text,
        *((speedup, accuracy), (0, 0), "data", "offset points"),
        ha="center",
        va="center",
        fontsize=8.5,
        color=color,
        zorder=6,
    )
    annotation.set_in_layout(False)
    return annotation


def _place(axes: Axes, labels: Sequence[Annotation]) -> None:
    """Move every label to a place where it covers nothing; one that finds none goes away."""
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    points = np.concatenate([_pixels(line) for line in axes.get_lines() if len(np.asarray(line.get_xdata()))])
    placed: list[Bbox] = []
    inside = axes.get_window_extent(renderer)
    for label in labels:
        for place in _PLACES:
            label.set_position(place)
            box = label.get_window_extent(renderer)
            covers = box.padded(1).count_contains(points) > 0 or any(box.overlaps(other) for other in placed)
            if not covers and inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1):
                placed.append(box)
                break
        else:
            label.remove()


def _pixels(line: Line2D) -> npt.NDArray[np.float64]:
    """Return points [n, 2] at most two pixels apart that a line covers, or its markers if it has no line."""
    corners = np.asarray(line.get_transform().transform(line.get_xydata()), dtype=np.float64)
    if line.get_linestyle() == "None":
        return corners
    way = np.concatenate([[0], np.hypot(*np.diff(corners, axis=0).T).cumsum()])
    steps = np.linspace(0, way[-1], int(way[-1] / 2) + 2)
    return np.stack([np.interp(steps, way, corners[:, axis]) for axis in (0, 1)], axis=1)

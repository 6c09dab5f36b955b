"""Classes as PNG files: which one is taken for which, and where their texts leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font

from fastbert_hf.analysis.charts import as_png, new_figure
from fastbert_hf.by_class import ClassScores

_MOST_COUNTED = 12  # classes, beyond which the counts would not fit into their cells
_MOST_NAMED = 40  # classes, beyond which the names would not fit beside their rows
_LONGEST_NAME = 18


def confusion_chart(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> bytes:
    """Draw which class is taken for which: a cell is darker the larger its part of the texts of its row.

    Args:
        matrix: texts of each class (rows) by the class that they are taken for (columns), [N, N].
        names: of the N classes.
    """
    figure = new_figure(_height(len(names)))
    axes = figure.add_subplot()
    _shade(axes, matrix)
    _name_rows(axes, names)
    if len(names) <= _MOST_NAMED:
        style: dict[str, Any] = {
            "fontsize": _size(len(names)),
            "rotation": 0 if len(names) <= 4 else 90,
            "parse_math": False,
        }
        axes.set_xticks(range(len(names)), _labels(names), **style)
    axes.set_xlabel("taken for")
    return as_png(figure)


def exit_layers_chart(scores: Sequence[ClassScores], first_layer: int) -> bytes:
    """Draw behind which layers the texts of each class leave: a cell is darker the larger its part of the texts of its
    row.

    Args:
        scores: of the N classes.
        first_layer: that they have counts of; 0 with exit zero.
    """
    figure = new_figure(_height(len(scores)))
    axes = figure.add_subplot()
    _shade(axes, [score.exit_layers for score in scores])
    _name_rows(axes, [score.name for score in scores])
    layers = len(scores[0].exit_layers)
    axes.set_xticks(range(layers), [str(first_layer + place) for place in range(layers)])
    axes.set_xlabel("leave behind layer")
    return as_png(figure)


def _height(classes: int) -> float:
    return min(7.2, 2.6 + 0.42 * classes)


def _size(classes: int) -> float:
    return 10 if classes <= 6 else 8 if classes <= 20 else 5.5


def _shade(axes: Axes, matrix: Sequence[Sequence[int]]) -> None:
    """Draw a cell for each count, darker the larger its part of its row, with the count where there is room."""
    counts = np.asarray(matrix)
    rows = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if rows <= _MOST_COUNTED:
        for row, column in np.argwhere(counts > 0):
            dark = shares[row, column] > 0.5
            style: dict[str, Any] = {"color": "white" if dark else "black", "fontsize": 10 if rows <= 6 else 8}
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", **style)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    if len(names) <= _MOST_NAMED:
        axes.set_yticks(range(len(names)), _labels(names), fontsize=_size(len(names)), parse_math=False)
    axes.set_ylabel("class" if len(names) <= _MOST_NAMED else "class, by its number")


def _labels(names: Sequence[str]) -> list[str]:
    """Return the names, cut off where they are long; the number of a class whose name the font cannot write."""
    known = get_font(findfont(FontProperties())).get_charmap()
    short = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "\u2026" for name in names]
    return [
        name if all(ord(character) in known for character in name) else str(number) for number, name in enumerate(short)
    ]

"""The confusion matrix as a PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.font_manager import FontProperties, findfont, get_font

from fastbert_hf.analysis.charts import as_png, new_figure

_MOST_COUNTED = 12  # classes, beyond which the counts would not fit into their cells
_MOST_NAMED = 40  # classes, beyond which the names would not fit beside their rows
_LONGEST_NAME = 18


def confusion_chart(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> bytes:
    """Draw which class is taken for which: a cell is darker the larger its part of the texts of its row.

    Args:
        matrix: texts of each class (rows) by the class that they are taken for (columns), [N, N].
        names: of the N classes.
    """
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(names)
    figure = new_figure(min(7.2, 2.6 + 0.42 * classes))
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if classes <= _MOST_COUNTED:
        for row, column in np.argwhere(counts > 0):
            dark = shares[row, column] > 0.5
            style: dict[str, Any] = {"color": "white" if dark else "black", "fontsize": 10 if classes <= 6 else 8}
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", **style)
    if classes <= _MOST_NAMED:
        size = 10 if classes <= 6 else 8 if classes <= 20 else 5.5
        shown = _labels(names)
        axes.set_xticks(range(classes), shown, fontsize=size, rotation=0 if classes <= 4 else 90, parse_math=False)
        axes.set_yticks(range(classes), shown, fontsize=size, parse_math=False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class" if classes <= _MOST_NAMED else "class, by its number")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return as_png(figure)


def _labels(names: Sequence[str]) -> list[str]:
    """Return the names, cut off where they are long; the number of a class whose name the font cannot write."""
    known = get_font(findfont(FontProperties())).get_charmap()
    short = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "\u2026" for name in names]
    return [
        name if all(ord(character) in known for character in name) else str(number) for number, name in enumerate(short)
    ]

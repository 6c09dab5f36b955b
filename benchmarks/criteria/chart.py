"""The chart of the criteria: accuracy against speed-up, and how the uncertainty spreads over the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from criteria.figures import Contender

# Okabe and Ito's colours, told apart by colour-blind readers too; and line styles, for print without colours.
_COLOURS = ("#000000", "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#F0E442")
_STYLES = ("-", "--", "-.", ":")
_SPREADS = [
    Contender(*one).name for one in (("entropy", 0), ("top_k_entropy", 2), ("top_k_entropy", 5), ("confidence", 0))
]
_FASTEST_SHOWN = 4.0


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG with two panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    curves, spreads = figure.subplots(1, 2)
    criteria = result["criteria"]
    for number, (name, one) in enumerate(criteria.items()):
        points = [at for at in one["curve"] if 1 <= at["flops_speedup"] <= _FASTEST_SHOWN]
        speedups, accuracies = [at["flops_speedup"] for at in points], [100 * at["accuracy"] for at in points]
        if name == "patience":
            curves.plot(speedups, accuracies, "s", color="#999999", label="patience")
        else:
            colour, style = _COLOURS[number % len(_COLOURS)], _STYLES[number % len(_STYLES)]
            curves.plot(speedups, accuracies, style, color=colour, label=name)
    full = 100 * result["layers"]["test_accuracy"][-1]
    curves.axhline(full, color="#999999", linewidth=0.8)
    curves.annotate(
        "full depth", (_FASTEST_SHOWN, full), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=8
    )
    curves.set_xlabel("FLOPs speed-up over full depth")
    curves.set_ylabel("test accuracy (percent)")
    curves.set_title(f"One Speed for all layers, {len(result['data']['classes'])} classes")
    curves.legend(title="uncertainty compared with Speed", fontsize=8, title_fontsize=8)

    shown = [name for name in _SPREADS if name in criteria]
    for number, name in enumerate(shown):
        layers = criteria[name]["uncertainty"]
        places = [at["layer"] + 0.16 * (number - (len(shown) - 1) / 2) for at in layers]
        low, middle, high = zip(*(at["quantiles"] for at in layers), strict=True)
        colour = _COLOURS[list(criteria).index(name) % len(_COLOURS)]
        spreads.vlines(places, low, high, color=colour, linewidth=2)
        spreads.plot(places, middle, "osD^"[number], color=colour, label=name)
    spreads.set_xlabel("layer of the exit head")
    spreads.set_ylabel("uncertainty of the test samples")
    spreads.set_ylim(-0.02, 1.02)
    spreads.set_title("Median, and the range of the middle 90 percent")
    spreads.legend(fontsize=8)
    figure.savefig(path, dpi=150)

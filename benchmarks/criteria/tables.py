"""The tables of the criteria."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from criteria.figures import CERTIFIED_DROP, CONFIDENCE, OBJECTIVES
from harness import markdown_table


def markdown(result: dict[str, Any]) -> str:
    """The tables of a result."""
    data, settings, criteria = result["data"], result["settings"], result["criteria"]
    samples = data["samples"]
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    full = result["layers"]["test_accuracy"][-1]
    parts = [
        f"# Many classes: {len(data['classes'])} modules by their docstrings",
        f"{samples['train']:,} docstrings to train, {samples['dev']:,} to choose settings and "
        f"{samples['test']:,} to test, "
        f"{result['mean_tokens']:.0f} tokens on average; {settings['epochs']:g} epochs of fine-tuning, "
        f"{settings['distil_epochs']:g} of self-distillation, seed {settings['seed']}, {settings['precision']}. "
        f"Sources: {versions}. By `python benchmarks/many_classes.py`.",
        "Accuracies are of the test part; FLOPs as the paper counts them, at the lengths of the texts.",
        "## Accuracy of each layer's head",
        markdown_table([{f"layer {n}": f"{a:.1%}" for n, a in enumerate(result["layers"]["test_accuracy"], 1)}]),
        "## Uncertainty: 5 %, 50 % and 95 % of the samples lie below",
        _by_layer(criteria, lambda at: " / ".join(f"{value:.2f}" for value in at["quantiles"])),
        "## What one Speed means: accuracy, FLOPs speed-up",
        _speeds_table(criteria),
        "## How often a wrong prediction is less sure than a right one (0.5 is chance)",
        _by_layer(criteria, lambda at: _or_dash(at["wrong_above_right"], "{:.3f}")),
        "## How often a prediction that full depth would mend is less sure than another (0.5 is chance)",
        _by_layer(criteria, lambda at: _or_dash(at["spoilt_above_kept"], "{:.3f}")),
        f"## One Speed for all layers: accuracy at equal FLOPs (full depth: {full:.1%})",
        _curve_table(criteria),
        "Mean accuracy: over speed-ups from 1.5 to 2.5. Its difference to normalised entropy in points, with a 95 % "
        "bootstrap interval over the test samples.",
        "## A temperature for each head, fitted on dev",
        _temperature_table(result),
        "Expected calibration error of the heads: how far accuracy is from the probability of the prediction.",
        _curve_table(result["temperatures"]["criteria"]),
        "Difference: to the same criterion without temperatures.",
        "## Chosen on dev, measured on test: drop in points, FLOPs speed-up",
        "One Speed (or patience) and the best set of heads for it; the last row, of any criterion with a Speed per "
        "layer.",
        _chosen_table(result),
        f"## Certified on dev: drop of at most {100 * CERTIFIED_DROP:g} points with {CONFIDENCE:.0%} confidence "
        "(Learn then Test)",
        _certified_table(result),
        "Spoilt: right at full depth, wrong at the exit; this is what the certificate bounds.",
    ]
    return "\n\n".join(parts)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _by_layer(criteria: dict[str, Any], cell: Callable[[dict[str, Any]], str]) -> str:
    return markdown_table(
        [
            {"": name, **{f"layer {at['layer']}": cell(at) for at in one["uncertainty"]}}
            for name, one in criteria.items()
            if one["uncertainty"] is not None
        ]
    )


def _speeds_table(criteria: dict[str, Any]) -> str:
    return markdown_table(
        [
            {
                "": name,
                **{
                    f"Speed {speed}": f"{at['accuracy']:.1%}, {at['flops_speedup']:.2f}x"
                    for speed, at in one["at_speeds"].items()
                },
            }
            for name, one in criteria.items()
            if one["at_speeds"]
        ]
    )


def _curve_table(criteria: dict[str, Any]) -> str:
    rows = []
    for name, one in criteria.items():
        if "mean_accuracy" not in one:
            continue
        mean = one["mean_accuracy"]
        low, high = (100 * end for end in mean["interval"])
        cells = {f"{at}x": _or_dash(accuracy, "{:.1%}") for at, accuracy in one["accuracy_at"].items()}
        difference = f"{100 * mean['difference']:+.2f} ({low:+.2f} to {high:+.2f})" if mean["difference"] else "-"
        rows.append({"": name, **cells, "mean accuracy": f"{mean['value']:.2%}", "difference": difference})
    return markdown_table(rows)


def _temperature_table(result: dict[str, Any]) -> str:
    found = result["temperatures"]
    rows = {
        "temperature": [f"{value:.2f}" for value in found["temperatures"]],
        "error before": [f"{value:.1%}" for value in found["calibration_error"]["before"]],
        "error after": [f"{value:.1%}" for value in found["calibration_error"]["after"]],
    }
    return markdown_table(
        [{"": name, **{f"layer {n}": cell for n, cell in enumerate(cells, 1)}} for name, cells in rows.items()]
    )


def _chosen_table(result: dict[str, Any]) -> str:
    rows = []
    scaled = {f"{name}, temperatures": one for name, one in result["temperatures"]["criteria"].items()}
    everything = {**result["criteria"], **scaled, "any, a Speed per layer": result["searched"]}
    for name, one in everything.items():
        cells = {}
        for wish in OBJECTIVES:
            found = one["chosen"].get(wish, {"not_found": ""})
            cells[wish] = (
                "-"
                if "not_found" in found
                else f"{100 * found['test']['drop']:.1f}, {found['test']['flops_speedup']:.2f}x"
            )
        rows.append({"": name, **cells})
    return markdown_table(rows)


def _certified_table(result: dict[str, Any]) -> str:
    rows = []
    everything = {**result["criteria"], "any, a Speed per layer": result["searched"]}
    for name, one in everything.items():
        found = one["certified"]
        rows.append(
            {
                "": name,
                "Speed": speed_in_words(found["rule"]),
                "tested on": f"{found['samples']:,}",
                "test: drop in points": f"{100 * found['test']['drop']:.1f}",
                "test: spoilt": f"{found['test']['spoilt']:.1%}",
                "test: FLOPs speed-up": f"{found['test']['flops_speedup']:.2f}x",
            }
        )
    return markdown_table(rows)


def speed_in_words(rule: dict[str, Any]) -> str:
    """Say what the heads of a `figures.setting` compare with, as a cell of a table."""
    if not rule["layers"]:
        return "full depth"
    if rule["patience"] is not None:
        return f"{rule['patience']} in a row"
    speeds = set(rule["speeds"])
    return f"{speeds.pop():.3g}" if len(speeds) == 1 else "per layer"

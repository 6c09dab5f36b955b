"""How the criteria compare on many classes, for docs/results.md."""

from __future__ import annotations

from typing import Any

from harness import markdown_table

_SPEEDUPS = ("1.5", "2", "3")


def criteria(result: dict[str, Any] | None) -> str:
    """Return what was trained, and a row for every criterion with a Speed."""
    if result is None:
        return "Not measured yet."
    samples, settings, layers = result["data"]["samples"], result["settings"], result["layers"]["test_accuracy"]
    machine = result["trained_on"]
    rows = [_row(name, one) for name, one in result["criteria"].items() if one["uncertainty"] is not None]
    return (
        f"{samples['train']:,} docstrings of {result['mean_tokens']:.0f} tokens to train, {settings['epochs']:g} "
        f"epochs and {settings['distil_epochs']:g} of self-distillation, {samples['dev']:,} to choose settings on "
        f"(dev) and {samples['test']:,} to test, one seed. Full depth is right on {layers[-1]:.1%}, the head behind "
        f"the first layer on {layers[0]:.1%}. Trained in {settings['precision']} on {machine['cores']} cores, "
        f"{machine['processor']}, {machine['date'][:10]}.\n\n{markdown_table(rows)}"
    )


def _row(name: str, one: dict[str, Any]) -> dict[str, str]:
    mean = one["mean_accuracy"]
    low, high = (100 * bound for bound in mean["interval"])
    difference = "-" if low == high == 0 else f"{100 * mean['difference']:+.1f} points ({low:+.1f} to {high:+.1f})"
    first, *_, last = (at["spoilt_above_kept"] for at in one["uncertainty"] if at["spoilt_above_kept"] is not None)
    return {
        "criterion, one Speed for all layers": name,
        **{f"accuracy at {speedup}x": f"{one['accuracy_at'][speedup]:.1%}" for speedup in _SPEEDUPS},
        "mean, 1.5x to 2.5x, less that of entropy (95 % interval)": difference,
        "spoilt less sure than others, first and last student": f"{first:.2f}, {last:.2f}",
        "promised: at most 2 points lost": f"{one['certified']['test']['flops_speedup']:.2f}x",
    }

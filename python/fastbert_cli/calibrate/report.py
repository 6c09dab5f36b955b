"""What `fastbert calibrate` prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fastbert_cli.setting_in_words import describe_criterion, describe_measured, describe_objective, describe_rule
from fastbert_hf.calibration import Calibration, ExitRecords, TemperatureScaling
from fastbert_hf.calibration.temperature import HIGHEST, LOWEST
from fastbert_hf.exits.calibrated_setting import SETTING_FILE, CalibratedSetting, Figures

# Classes that lose the largest share of their texts.
_CLASSES_SHOWN = 3


def show(
    console: Console,
    records: ExitRecords,
    calibration: Calibration,
    scaling: TemperatureScaling | None,
    class_names: Sequence[str],
    saved: Path | None,
) -> None:
    """Print the comparison, the setting, its figures and what they are worth.

    Args:
        console: to print to.
        records: all samples.
        calibration: what was found.
        scaling: of the temperatures, if there was one.
        class_names: name of every class.
        saved: the model's folder; `None` if nothing was written.
    """
    if scaling is not None:
        _show_scaling(console, records, scaling)
    setting = calibration.setting
    if len(calibration.compared) > 1:
        _show_criteria(console, calibration)
    for line in _lines(setting, records.student_layers, class_names):
        console.print(line, markup=False)
    if saved is None:
        console.print("dry run: nothing was written", markup=False)
    else:
        console.print(f"written: {saved / SETTING_FILE}; used from now on unless a call says otherwise", markup=False)


def as_values(scaling: TemperatureScaling) -> dict[str, Any]:
    """`scaling` without the samples, for JSON."""
    return {field.name: getattr(scaling, field.name) for field in fields(scaling) if field.name != "records"}


def _lines(setting: CalibratedSetting, student_layers: tuple[int, ...], class_names: Sequence[str]) -> list[str]:
    figures, evidence = setting.figures, setting.evidence
    slow, fast = figures.flops_speedup_interval
    sure = f"{evidence.confidence:.4g}"
    lines = [
        f"setting: {describe_rule(setting.rule, student_layers)}",
        f"target: {describe_objective(setting.objective)}; measured: {describe_measured(setting)}",
        *_answers(figures, class_names),
        f"FLOPs speed-up: {figures.flops_speedup:.2f}x ({slow:.2f}x to {fast:.2f}x), mean exit layer "
        f"{figures.mean_exit_layer:.2f}; on {evidence.samples} texts, intervals at {sure} confidence",
    ]
    if setting.latency is not None:
        latency = setting.latency
        lines.append(
            f"time: {latency.ms_per_text:.3g} ms per text in batches of {latency.batch_size} ({latency.texts} texts, "
            f"{latency.precision}, {latency.machine}), full depth {latency.full_depth_ms_per_text:.3g} ms"
        )
    if evidence.guarantee is None:
        asked = "latency" if setting.latency is not None else "speed-up"
        lines.append(
            f"no guarantee: the target is a {asked}, and the same texts chose the setting and measured it, so its "
            "accuracy may look a little better than it is; --max-drop guarantees one, --max-disagreement the answers"
        )
    elif setting.rule.layers:
        lines.append(f"guarantee: {evidence.guarantee} (p = {evidence.p_value:.3g}; {evidence.method})")
    else:
        targets = ("max_score_change", "max_drop", "max_f1_drop", "max_disagreement")
        target = next(name for name in targets if getattr(setting.objective, name) is not None)
        allowed = f"--{target.replace('_', '-')}"
        lines.append(
            f"no early exit could be shown at {sure} confidence to keep the promise, so only full depth does, and no "
            f"time is saved; more texts, a larger {allowed} or less --confidence may help"
        )
    return lines


def _answers(figures: Figures, class_names: Sequence[str]) -> list[str]:
    """Return what becomes of the answers: their accuracy, where there were labels, else how many differ."""
    if figures.accuracy is not None and figures.accuracy_interval is not None:
        low, high = figures.accuracy_interval
        full = figures.full_depth_accuracy
        return [
            f"accuracy: {figures.accuracy:.2%} ({low:.2%} to {high:.2%}), full depth {full:.2%}; macro F1: "
            f"{figures.macro_f1:.4f}, full depth {figures.full_depth_macro_f1:.4f}"
        ]
    assert figures.disagreement is not None and figures.disagreement_interval is not None
    low, high = figures.disagreement_interval
    if figures.mean_score_change is not None:
        return [
            f"scores further from full depth's than that: {figures.disagreement:.2%} ({low:.2%} to {high:.2%}); "
            f"change {figures.mean_score_change:.3g} on average, {figures.largest_score_change:.3g} at most"
        ]
    lines = [f"answers other than at full depth: {figures.disagreement:.2%} ({low:.2%} to {high:.2%})"]
    classes = zip(class_names, figures.class_counts or (), figures.class_losses or (), strict=True)
    worst = sorted((one for one in classes if one[2]), key=lambda one: one[2] / one[1], reverse=True)[:_CLASSES_SHOWN]
    if worst:
        lost = ", ".join(f"{name} {lost} of {count}" for name, count, lost in worst)
        lines.append(f"of the texts that full depth gives a class, so many lose it: {lost}")
    return lines


def _show_criteria(console: Console, calibration: Calibration) -> None:
    setting = calibration.setting
    chosen_with = setting.evidence.samples_for_choosing or setting.evidence.samples
    table = _table(f"criteria, each with one Speed, on the {chosen_with} texts that chose")
    table.add_column("best first")
    of_accuracy = setting.figures.accuracy is not None
    quality = ("accuracy", "points lost", "macro F1") if of_accuracy else ("other answers",)
    for heading in ("layers asked", *quality, "FLOPs speed-up"):
        table.add_column(heading, justify="right")
    for found in calibration.compared:
        shown: tuple[str, ...] = (f"{found.drop:.2%}",)
        if of_accuracy:
            shown = (f"{found.accuracy:.2%}", f"{100 * found.drop:.2f}", f"{found.macro_f1:.4f}")
        table.add_row(
            describe_criterion(found.rule),
            ", ".join(map(str, found.rule.layers)) or "none",
            *shown,
            f"{found.flops_speedup:.2f}x",
        )
    console.print(table)
    console.print()


def note_bounds(scaling: TemperatureScaling) -> None:
    """Say which heads the texts told no temperature of."""
    heads = zip(scaling.records.exit_layers, scaling.temperatures, strict=True)
    at = [str(layer) for layer, one in heads if one in (LOWEST, HIGHEST)]
    if at:
        print(
            f"note: the temperature of layer {', '.join(at)} ended at its bound of {LOWEST:g} or {HIGHEST:g}: the "
            f"{scaling.fitted_samples:,} texts that fit it say too little of it; give more texts, or leave "
            "--temperature-scaling out",
            file=sys.stderr,
        )


def _show_scaling(console: Console, records: ExitRecords, scaling: TemperatureScaling) -> None:
    tested = len(records) - scaling.fitted_samples
    heads = _table(f"temperatures from {scaling.fitted_samples} texts, measured on {tested} others")
    for heading in ("layer", "temperature", "calibration error before", "after"):
        heads.add_column(heading, justify="right")
    rows = zip(records.exit_layers, scaling.temperatures, scaling.error_before, scaling.error_after, strict=True)
    for layer, temperature, before, after in rows:
        heads.add_row(str(layer), f"{temperature:.3f}", f"{before:.4f}", f"{after:.4f}")
    console.print(heads)
    console.print()
    curve = _table("FLOPs speed-up of one Speed at equal accuracy, on these others")
    for heading in ("points lost", "before", "after"):
        curve.add_column(heading, justify="right")
    for drop, before, after in zip(scaling.drops, scaling.speedup_before, scaling.speedup_after, strict=True):
        curve.add_row(f"{100 * drop:g}", f"{before:.2f}x", f"{after:.2f}x")
    console.print(curve)
    console.print()


def _table(title: str) -> Table:
    return Table(box=None, pad_edge=False, title=title, title_justify="left")

"""`fastbert convert`: a checkpoint of another FastBERT implementation becomes a folder that every command takes."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from fastbert_cli.convert.command import Convert
from fastbert_cli.errors import faults_explained
from fastbert_hf.conversion import FORMATS, ConversionReport, convert_checkpoint


def run_convert(options: Convert) -> None:
    """Convert, write the folder and print what was done.

    Raises:
        CommandError: the checkpoint cannot be converted; the message has the reason.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with faults_explained():
        report = convert_checkpoint(
            options.checkpoint,
            options.to,
            format=options.format,
            vocabulary=options.vocab,
            settings=options.config,
            label_names=options.label or None,
        )
    show(Console(highlight=False, soft_wrap=True, markup=False), report)
    print(f"written: {options.to}")


def show(console: Console, report: ConversionReport) -> None:
    """Print what was mapped and left out, what was decided, and how far the answers differ."""
    how = "by its names" if report.detected else "as asked for"
    console.print(f"format: {report.format} ({how}), {FORMATS[report.format]}")
    console.print(f"mapped: {len(report.mapped)} parameters")
    reasons: dict[str, list[str]] = {}
    for name, reason in report.left_out.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        console.print(f"left out: {len(names)} parameters, {reason}: {', '.join(names)}")
    for note in report.notes:
        console.print(f"- {note}")
    comparison = report.comparison
    console.print(
        f"against the original's arithmetic in float64, on {comparison.texts} random texts of {comparison.tokens} "
        f"tokens (logits up to {comparison.largest_logit:.3g}):"
    )
    table = Table("layer", "logits, float64", "logits", "uncertainty", title="largest difference", title_justify="left")
    for layer in comparison.layers:
        table.add_row(
            str(layer.layer), *(f"{value:.1e}" for value in (layer.logits_float64, layer.logits, layer.uncertainty))
        )
    console.print(table)
    speeds = ", ".join(f"{speed:g}" for speed in comparison.speeds)
    console.print(f"equal exits: {comparison.equal_exits:.2%} of the texts at Speed {speeds}")

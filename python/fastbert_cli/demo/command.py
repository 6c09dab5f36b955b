"""The command `demo`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastbert_cli.errors import reported
from fastbert_cli.options import Precision


def demo(
    train: Annotated[
        Path | None,
        typer.Option(help="Labelled texts to train on (.tsv or .csv, header: label, text). Default: docstrings."),
    ] = None,
    dev: Annotated[Path | None, typer.Option(help="Labelled texts to measure on, of the same form.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Folder or hub name of a pretrained BERT. Default: the packaged 6-layer MiniLM.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the model, the report, the figures and the chart.")] = Path(
        "demo-out"
    ),
    speed: Annotated[
        list[float] | None, typer.Option(help="Speed (threshold on the uncertainty) to measure at; may be repeated.")
    ] = None,
    epochs: Annotated[float, typer.Option(min=0.01, help="Epochs of step 1, fine-tuning.")] = 3,
    distil_epochs: Annotated[float, typer.Option(min=0.01, help="Epochs of step 2, self-distillation.")] = 3,
    max_length: Annotated[int, typer.Option(min=3, help="Texts are cut off at this many tokens.")] = 96,
    precision: Annotated[
        Precision, typer.Option(help="Of training; auto: bf16 where the processor computes in it.")
    ] = (Precision.auto),
    timed: Annotated[
        int, typer.Option(min=32, help="Texts that the timing runs over (a multiple of the batch of 32).")
    ] = 320,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved repeats of the timing; medians are reported.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the data, the fresh heads and the training.")] = 0,
) -> None:
    """Train, distil, patch and measure a FastBERT, from raw text, in about five minutes on two cores.

    Without files it classifies docstrings: which of five installed libraries was this one written for?

    \b
    Examples:
      fastbert demo
      fastbert demo --train mine-train.tsv --dev mine-dev.tsv --speed 0.2 --speed 0.6
    """
    with reported("demo", lambda: f"stopped; what was finished is in {out}", extra="demo"):
        from fastbert_cli.demo.run import DemoSettings, run_demo

        settings = DemoSettings(
            train=train,
            dev=dev,
            backbone=backbone,
            out=out,
            speeds=tuple(sorted(set(speed or (0.1, 0.3, 0.5, 0.8)))),
            epochs=epochs,
            distil_epochs=distil_epochs,
            max_length=max_length,
            precision=precision.value,
            timed=timed,
            rounds=rounds,
            seed=seed,
        )
        run_demo(settings)

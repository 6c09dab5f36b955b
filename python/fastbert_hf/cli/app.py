"""Commands and their options; what they do is in a module each."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import fastbert_kernels
from fastbert_hf.data import DataFileError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="FastBERT: a BERT classifier that lets easy texts leave early, with the speed-up real on the clock.",
)


class Precision(str, Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


@app.command()
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
    from fastbert_hf.cli.demo import DemoError, DemoSettings, run_demo

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
    try:
        run_demo(settings)
    except (DemoError, DataFileError) as error:
        typer.echo(f"fastbert demo: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo(f"\nfastbert demo: stopped; what was finished is in {out}", err=True)
        raise typer.Exit(130) from None


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False) -> None:
    """Show what this installation has: versions, compiled kernels, backends, and why what is missing is missing."""
    information = fastbert_kernels.info()
    if as_json:
        typer.echo(json.dumps(information, indent=2))
        return
    backends = {f"backend {name}": state for name, state in information.pop("backends").items()}
    console = Console(soft_wrap=True, highlight=False)
    for name, value in (information | backends).items():
        console.print(f"{name.replace('_', ' '):<20}  {'-' if value is None else value}")

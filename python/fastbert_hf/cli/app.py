"""The program `fastbert`: its commands, of which each has a module."""

from __future__ import annotations

import json

import typer
from rich.console import Console

import fastbert_kernels
from fastbert_hf.cli import options
from fastbert_hf.cli.analyze_command import analyze
from fastbert_hf.cli.calibrate_command import calibrate
from fastbert_hf.cli.convert_command import convert
from fastbert_hf.cli.demo_command import demo
from fastbert_hf.cli.evaluate_command import evaluate
from fastbert_hf.cli.predict_command import predict
from fastbert_hf.cli.training_commands import distill, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="FastBERT: a BERT classifier that lets easy texts leave early, with the speed-up real on the clock.",
)
for command in (train, distill, calibrate, demo, evaluate, analyze, predict, convert):
    app.command()(command)


@app.command()
def info(as_json: options.AsJson = False) -> None:
    """Show what this installation has: versions, compiled kernels, backends, and why what is missing is missing."""
    information = fastbert_kernels.info()
    if as_json:
        typer.echo(json.dumps(information, indent=2))
        return
    backends = {f"backend {name}": state for name, state in information.pop("backends").items()}
    console = Console(soft_wrap=True, highlight=False)
    for name, value in (information | backends).items():
        console.print(f"{name.replace('_', ' '):<20}  {'-' if value is None else value}")

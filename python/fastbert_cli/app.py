"""The program `fastbert`: its commands, of which each has a folder or a file."""

from __future__ import annotations

from typing import Annotated

import typer

from fastbert_cli.adopt.command import Adopt
from fastbert_cli.analyze.command import Analyze
from fastbert_cli.calibrate.command import Calibrate
from fastbert_cli.command import add_command
from fastbert_cli.compare.command import Compare
from fastbert_cli.convert.command import Convert
from fastbert_cli.demo.command import Demo
from fastbert_cli.distill.command import Distill
from fastbert_cli.evaluate.command import Evaluate
from fastbert_cli.export.command import Export
from fastbert_cli.info import Info
from fastbert_cli.predict.command import Predict
from fastbert_cli.serve.command import Serve
from fastbert_cli.train.command import Train

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="FastBERT: a BERT classifier that lets easy texts leave early, with the speed-up real on the clock.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata  # which takes longer than all else that the help needs

        typer.echo(f"fastbert {importlib.metadata.version('fastbert-kernels')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


_MAKE = (Train, Adopt, Distill, Calibrate, Demo)
_USE = (Evaluate, Compare, Analyze, Predict, Serve, Convert, Export, Info)
for command in (*_MAKE, *_USE):
    add_command(app, command)

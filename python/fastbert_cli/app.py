"""The program `fastbert`: its commands, of which each has a folder or a file."""

from __future__ import annotations

import typer

from fastbert_cli.analyze.command import analyze
from fastbert_cli.calibrate.command import calibrate
from fastbert_cli.convert.command import convert
from fastbert_cli.demo.command import demo
from fastbert_cli.distill.command import distill
from fastbert_cli.evaluate.command import evaluate
from fastbert_cli.info import info
from fastbert_cli.predict.command import predict
from fastbert_cli.train.command import train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="FastBERT: a BERT classifier that lets easy texts leave early, with the speed-up real on the clock.",
)
for command in (train, distill, calibrate, demo, evaluate, analyze, predict, convert, info):
    app.command()(command)

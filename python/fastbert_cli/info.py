"""`fastbert info`: what this installation has."""

from __future__ import annotations

import json

import typer
from rich.console import Console

import fastbert_kernels
from fastbert_cli import options


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

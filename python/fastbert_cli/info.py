"""`fastbert info`: what this installation has."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich.console import Console

from fastbert_cli import options
from fastbert_cli.command import Command


@dataclass(frozen=True)
class Info(Command):
    """Show what this installation has: versions, compiled kernels, backends, and why what is missing is missing."""

    as_json: options.AsJson = False

    def run(self) -> None:
        """Print it."""
        import fastbert_kernels  # here, so that no help waits for torch

        information = fastbert_kernels.info()
        if self.as_json:
            print(json.dumps(information, indent=2))
            return
        sets = information.pop("cpu_instruction_sets") or {}
        states = {f"cpu {name}": state for name, state in sets.items()}
        states |= {f"backend {name}": state for name, state in information.pop("backends").items()}
        console = Console(soft_wrap=True, highlight=False)
        for name, value in ({key.replace("_", " "): value for key, value in information.items()} | states).items():
            console.print(f"{name:<20}  {'-' if value is None else value}")

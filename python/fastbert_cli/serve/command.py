"""The command `serve`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from fastbert_cli import options
from fastbert_cli.command import Command, Option
from fastbert_cli.errors import CommandError


@dataclass(frozen=True)
class Serve(Command):
    """Answer texts over HTTP with a saved FastBERT, on the fast kernels.

    \b
    Texts of all requests share batches that stay full: who is sure early has
    an answer early, and makes room for others. No answer depends on who else
    is served.

    \b
    POST /predict takes what text-embeddings-inference takes, and beside it
    speed, speedup, deadline_ms and details. GET /info, /health and /metrics
    (for Prometheus) say how it goes, /docs shows all of it.

    \b
    The server listens when it is ready. SIGTERM and Ctrl-C end it when those
    who were let in have their answers. Each request is a line of JSON on
    stderr, without its texts.

    \b
    Examples:
      fastbert serve demo-out/model
      fastbert serve demo-out/model --dtype int8 --host 0.0.0.0 --port 80
      FASTBERT_API_KEY=secret fastbert serve demo-out/model --socket /run/fb.sock
    """

    extra: ClassVar[str] = "serve"
    model: options.SavedModel
    host: Annotated[str, Option("Name or address to listen at.")] = "127.0.0.1"
    port: Annotated[int, Option("Port to listen at; 0: any that is free.", min=0, max=65535)] = 8080
    socket: Annotated[Path | None, Option("Listen at a Unix socket instead.")] = None
    threads: Annotated[int | None, Option("Threads that compute. Default: all processors.", min=1)] = None
    patching: options.Patching = field(default_factory=options.Patching)
    max_length: Annotated[int | None, Option("Longest text, in tokens. Default: as in training.", min=1)] = None
    max_texts: Annotated[int, Option("Texts of a request, at most.", min=1)] = 128
    max_body: Annotated[int, Option("Bytes of a request, at most.", min=1)] = 2_000_000
    max_concurrent: Annotated[int, Option("Requests that are answered together, at most.", min=1)] = 512
    max_tokens: Annotated[int, Option("Tokens of all texts in flight together, at most.", min=1)] = 65_536
    api_key: Annotated[
        str | None,
        Option("Key that requests must bring. Default: that of the variable FASTBERT_API_KEY, if there is one."),
    ] = None

    def look(self) -> None:
        """Look at the options and the model's folder."""
        from fastbert_cli import inputs

        inputs.check_patching(self.patching)
        if self.patching.backend == options.UNPATCHED:
            raise CommandError(f"--backend {options.UNPATCHED}: only a patched model is served; leave it out")
        inputs.look_at_model(self.model)

    def run(self) -> None:
        """Serve until told to end."""
        from fastbert_cli.serve.run import run_serve

        run_serve(self)

    def stopped(self) -> str:
        """Return that it has ended."""
        return "stopped"

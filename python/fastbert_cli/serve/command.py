"""The command `serve`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from fastbert_cli import options
from fastbert_cli.command import Command, Option
from fastbert_cli.errors import CommandError, faults_explained


@dataclass(frozen=True)
class Serve(Command):
    """Answer texts over HTTP with a saved model, on the fast kernels.

    \b
    Texts of all requests share batches that stay full: who is sure early has
    an answer early, and makes room for others. No answer depends on who else
    is served. A classifier of Transformers that is no FastBERT yet is served
    at full depth.

    \b
    POST /predict has the shape of text-embeddings-inference, with speed,
    speedup, deadline_ms and details beside it, and so has POST /rerank, of a
    model with one output, a reranker. GET /info, /health and /metrics (for
    Prometheus) say how it goes, /docs shows all of it.

    \b
    With --fast-setting and --target-p99-ms texts leave by a second calibrated
    setting while many are waiting. With --audit a share of the texts runs to
    full depth as well, and /metrics says whether the promise is kept.

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
    model: Annotated[Path, Option("Folder of a saved FastBERT, or classifier, and its tokenizer.", metavar="MODEL_DIR")]
    host: Annotated[str, Option("Name or address to listen at.")] = "127.0.0.1"
    port: Annotated[int, Option("Port to listen at; 0: any that is free.", min=0, max=65535)] = 8080
    socket: Annotated[Path | None, Option("Listen at a Unix socket instead.")] = None
    threads: Annotated[int | None, Option("Threads that compute. Default: all processors.", min=1)] = None
    patching: options.Patching = field(default_factory=options.Patching)
    max_length: Annotated[int | None, Option("Longest text, in tokens. Default: as in training.", min=1)] = None
    max_texts: Annotated[int, Option("Texts of a request, at most.", min=1)] = 128
    max_body: Annotated[int, Option("Bytes of a request, at most.", min=1)] = 2_000_000
    max_concurrent: Annotated[int, Option("Requests that are read and answered together, at most.", min=1)] = 512
    max_tokens: Annotated[
        int, Option("Tokens of a request, at most, and of texts in flight, from which on nobody is let in.", min=1)
    ] = 65_536
    audit: Annotated[
        float | None,
        Option("Share of texts that run to full depth as well, to be compared, as 0.01.", min=0, max=1),
    ] = None
    fast_setting: Annotated[
        Path | None,
        Option("Calibration (fastbert_calibration.json) of this model by which texts leave under load."),
    ] = None
    target_p99_ms: Annotated[
        float | None,
        Option("Texts leave by --fast-setting while the p99 of their time, as predicted, is above this.", min=0),
    ] = None
    api_key: Annotated[
        str | None,
        Option("Key that requests must bring. Default: that of the variable FASTBERT_API_KEY, if there is one."),
    ] = None

    def look(self) -> None:
        """Look at the options and the model's folder."""
        from fastbert_cli import inputs
        from fastbert_serving.key import key_of

        inputs.check_patching(self.patching)
        if self.patching.backend == options.UNPATCHED:
            raise CommandError(f"--backend {options.UNPATCHED}: only a patched model is served; leave it out")
        if self.audit == 0:
            raise CommandError("--audit 0: no text would be drawn; give a share above 0, or leave it out")
        if self.fast_setting is not None and not self.fast_setting.is_file():
            raise CommandError(
                f"--fast-setting {self.fast_setting}: no such file; name a copy of the fastbert_calibration.json "
                "that fastbert calibrate wrote for this model with a larger loss allowed"
            )
        with faults_explained():
            key_of(self.api_key)
        inputs.look_at_servable(self.model)

    def run(self) -> None:
        """Serve until told to end."""
        from fastbert_cli.serve.run import run_serve

        run_serve(self)

    def stopped(self) -> str:
        """Return that it has ended."""
        return "stopped"

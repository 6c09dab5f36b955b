"""`fastbert serve`: a saved model behind an HTTP server."""

from __future__ import annotations

import sys

import torch
import transformers

from fastbert_cli.errors import CommandError, faults_explained
from fastbert_cli.models import load_servable, place_and_patch, precision_of
from fastbert_cli.serve.command import Serve
from fastbert_hf.exits.calibrated_setting import CalibratedSetting
from fastbert_serving.app import create_app
from fastbert_serving.key import key_of
from fastbert_serving.listening import bind, bind_unix, name_of
from fastbert_serving.metrics import Metrics
from fastbert_serving.server import ListenError, Server, log_on_stderr
from fastbert_serving.service import Service
from fastbert_serving.settings import Settings


def run_serve(options: Serve) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        CommandError: the address is taken, or the model cannot be served.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        bound = bind(options.host, options.port) if options.socket is None else bind_unix(options.socket)
    except OSError as error:
        raise _taken(options, error) from error
    try:
        model, tokenizer = load_servable(options.model)
        if not place_and_patch(model, options.patching):
            raise CommandError("only a model that the fast kernels run is served; fastbert predict runs this one")
        with faults_explained("--fast-setting"):
            fast = None if options.fast_setting is None else CalibratedSetting.read(options.fast_setting)
        settings = Settings(
            api_key=key_of(options.api_key),
            max_body=options.max_body,
            max_texts=options.max_texts,
            max_concurrent=options.max_concurrent,
            max_tokens=options.max_tokens,
            max_length=options.max_length,
            audit=options.audit,
            fast_setting=fast,
            target_p99=None if options.target_p99_ms is None else options.target_p99_ms / 1000,
        )
        metrics = Metrics(model.config.num_hidden_layers)
        with faults_explained(str(options.model)):
            service = Service(model, tokenizer, settings, metrics)
        app = create_app(
            service, settings, metrics, model_id=options.model.resolve().name, precision=precision_of(model)
        )
        server = Server(app, lambda: print(f"fastbert serve: {name_of(bound)}", file=sys.stderr, flush=True))
        with log_on_stderr():
            server.run(sockets=[bound])
        if not server.started:
            raise CommandError(f"{options.model}: the model could not be warmed up; the lines above say why")
    except ListenError as error:
        raise _taken(options, error) from error
    finally:
        bound.close()


def _taken(options: Serve, error: OSError) -> CommandError:
    where = f"{options.host}:{options.port}" if options.socket is None else str(options.socket)
    return CommandError(f"cannot listen at {where} ({error.strerror or error}); choose another")

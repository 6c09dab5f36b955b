"""A server on loopback for tests, with a tiny model, and a client of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from dataclasses import dataclass, replace
from typing import Any

from transformers import BertTokenizerFast

import fastbert_kernels
from fastbert_hf.exits.calibrated_setting import CalibratedSetting, Evidence, Figures, Objective, SpeedCurve
from fastbert_hf.exits.fingerprint import model_fingerprint
from fastbert_hf.exits.rule import ExitRule
from fastbert_serving.app import create_app
from fastbert_serving.listening import bind
from fastbert_serving.metrics import Metrics
from fastbert_serving.server import Server
from fastbert_serving.service import Service
from fastbert_serving.settings import Settings
from helpers.cli import WORDS
from helpers.models import spread_model


def tiny_tokenizer(folder):
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return BertTokenizerFast(str(folder / "vocab.txt"))


@dataclass
class Running:
    """A server that runs in a thread."""

    address: tuple[str, int]
    service: Service
    server: Server

    @property
    def model(self):
        return self.service.model

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None):
        """Return status, headers and body (parsed where it is JSON)."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, raw, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.status, response.headers, json.loads(text) if is_json else text.decode()

    def predict(self, inputs: Any, **fields: Any):
        """Return the answer to a request that gets one."""
        status, _, answer = self.request("POST", "/predict", {"inputs": inputs, **fields})
        assert status == 200, answer
        return answer

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a measure; 0 where it was never written."""
        wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
        lines = self.request("GET", "/metrics")[2].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == wanted)


@contextlib.contextmanager
def running(model, tokenizer, **settings):
    """A server of a patched model, until the block ends."""
    limits = Settings(**settings)
    metrics = Metrics(model.config.num_hidden_layers)
    service = Service(model, tokenizer, limits, metrics)
    app = create_app(service, limits, metrics, model_id="tiny", precision="float32")
    bound, ready = bind("127.0.0.1", 0), threading.Event()
    address = bound.getsockname()[:2]
    server = Server(app, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert ready.wait(60)
        yield Running(address, service, server)
    finally:
        server.should_exit = True
        thread.join(60)
        bound.close()
        assert not thread.is_alive()


class Held:
    """Meanwhile the pool's thread stands still in front of its next layer."""

    def __init__(self, server, monkeypatch):
        self.reached, self.free = threading.Event(), threading.Event()
        encoder = server.service._pool._encoder
        original = type(encoder).advance

        def advance(encoder, state, until):
            self.reached.set()
            assert self.free.wait(60)
            return original(encoder, state, until)

        monkeypatch.setattr(type(encoder), "advance", advance)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.free.set()


class UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def patched_model(**config):
    return fastbert_kernels.patch(spread_model(**config))


def setting_of(model, speed, flops_speedup, *, exit_counts=None, **fields):
    """A calibrated setting of a model, as if one Speed for all layers had been found and guaranteed."""
    figures = Figures(None, None, None, None, flops_speedup, (flops_speedup, flops_speedup), 2.0)
    values = dict(
        rule=ExitRule.one_speed(model.config.exit_layers[:-1], speed),
        objective=Objective(max_disagreement=0.3),
        figures=replace(figures, exit_counts=exit_counts),
        evidence=Evidence(100, 100, 0.95, "chosen", "at most 30 % of new texts differ", 0.01),
        fingerprint=model_fingerprint(model),
        curve=SpeedCurve((0.0,), (1.0,), (1.0,)),
    )
    return CalibratedSetting(**(values | fields))


def send_and_leave(address, inputs, when=lambda: None, **fields):
    """Send a request, and close the connection when `when` returns, without a look at the answer."""
    body = json.dumps({"inputs": inputs, **fields}).encode()
    with socket.create_connection(address) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        when()

"""What a call with one short text costs the host on a GPU: packed in front of the graph of all layers, or as a part of
it.

    python benchmarks/call_host_time.py [--rounds 200]

No GPU is needed, and none is used: CPU tensors stand for those of a GPU, and a graph is one whose replay returns at
once. CPU time of one thread, the least of the rounds. What it leaves out: the CUDA runtime's own time for a launch or
copy, 2 to 3 us each, of which the packed call has some fifty and the other five; and waiting, three times and once.
What the small operations of the packed call compute on the CPU is in its time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from transformers import BertConfig

import fastbert_kernels
from families import result_name
from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from fastbert_kernels.engine.graphs import GraphedLoop
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.hosts import fastbert_hf as host
from harness import common_options, markdown_table, save
from host_time import ReplayAtOnce, least_seconds

DEPTH, WIDTH, LENGTH = 12, 64, 17
CALLS = 20  # in a turn


@torch.inference_mode(False)  # as users make it: of weights made in it no writes are counted
def patched_model() -> Any:
    """Return a patched model with as many parameters as a BERT-base, but narrow."""
    backbone = BertConfig(
        vocab_size=1000, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=4, intermediate_size=4 * WIDTH
    )
    model = FastBertForSequenceClassification(FastBertConfig(backbone, head_hidden_size=WIDTH)).eval()

    def prepare(layers: Any, heads: Any, dtype: Any, backend: str) -> GraphedLoop:
        kept = [TorchLayer(layer) for layer in layers]
        return GraphedLoop(kept, list(heads), "reference", recorder=ReplayAtOnce(), on_demand=True)

    with mock.patch.object(host, "prepare_encoder", prepare):
        return fastbert_kernels.patch(model, backend="reference")


@torch.inference_mode()
def measure(rounds: int) -> dict[str, float]:
    """Return the seconds of a call by kind of call."""
    model, ids = patched_model(), torch.randint(5, 1000, (1, LENGTH))
    mask, at_once = torch.ones_like(ids), host.answer_at_once

    def call(**options: Any) -> Callable[[], Any]:
        return lambda: model(ids, mask, **options)

    def packed(**options: Any) -> Callable[[], Any]:
        def run() -> Any:
            host.answer_at_once = lambda *arguments: None
            try:
                return model(ids, mask, **options)
            finally:
                host.answer_at_once = at_once

        return run

    runs = {
        "packed in front": packed(speed=0.5),
        "at once": call(speed=0.5),
        "at once, full depth": call(),
    }
    return least_seconds(runs, rounds, CALLS)


def main() -> None:
    parser = common_options("Times what a call with one text costs the host on a GPU, without one.")
    parser.add_argument("--rounds", type=int, default=200, help="the least of so many is reported")
    options: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    seconds = measure(2 if options.quick else options.rounds)
    rows = [{"a call with one text": name, "us": f"{1e6 * value:.0f}"} for name, value in seconds.items()]
    table = (
        f"# Host time of a call with {LENGTH} tokens on a GPU, launches that return at once\n\n{markdown_table(rows)}"
    )
    print(table)
    if not options.quick:
        save(options.out, result_name("call_host_time"), {"seconds": seconds}, table)


if __name__ == "__main__":
    main()

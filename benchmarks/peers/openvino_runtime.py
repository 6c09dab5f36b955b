"""OpenVINO, from the same ONNX file, in float32 and bfloat16."""

from __future__ import annotations

import torch

from peers.contestant import FULL_DEPTH_PEER, Answer, Contestant, Entry, NotAvailable, Request, Setup
from peers.onnx_export import INPUTS, onnx_file, require

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def full_depth(dtype: str) -> Entry:
    def build(setup: Setup) -> Contestant:
        openvino = require("openvino")
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(onnx_file(setup)),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": setup.threads,
            },
        )
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if precision != _PRECISIONS[dtype]:
            raise NotAvailable(f"OpenVINO computes in {precision} on this processor")

        def run(request: Request) -> Answer:
            logits = compiled([getattr(request, name).numpy() for name in INPUTS])[0]
            return Answer(torch.from_numpy(logits.copy()))

        return Contestant(run, release=compiled.release_memory, note=f"precision in use: {precision}")

    return Entry(f"OpenVINO {dtype}", FULL_DEPTH_PEER, dtype, build, devices=("cpu",))


ENTRIES = (full_depth("float32"), full_depth("bfloat16"))

"""ONNX Runtime: its transformer optimisations in float32, and dynamic int8 quantisation of that model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from peers.contestant import FULL_DEPTH_PEER, Answer, Contestant, Entry, Request, Setup
from peers.onnx_export import INPUTS, onnx_file, require


def _optimised(setup: Setup) -> tuple[Path, str]:
    """The file, and which operators were fused."""
    optimizer = require("onnxruntime.transformers.optimizer")
    path = setup.folder / "optimised.onnx"
    backbone: Any = setup.classifier().backbone
    config = backbone.config
    optimised = optimizer.optimize_model(
        str(onnx_file(setup)),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
    )
    fused = {name: count for name, count in optimised.get_fused_operator_statistics().items() if count}
    optimised.save_model_to_file(str(path))
    return path, "fused: " + ", ".join(f"{count} {name}" for name, count in fused.items())


def _quantised(setup: Setup) -> tuple[Path, str]:
    onnx = require("onnx")
    quantization = require("onnxruntime.quantization")
    source, fused = _optimised(setup)
    path = setup.folder / "int8.onnx"
    quantization.quantize_dynamic(
        source,
        path,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,  # as fast as one scale per matrix, with half the error on a trained model
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # the fused operators have no shape inference
    )
    return path, f"quantize_dynamic, QInt8 weights per channel; {fused}"


def _session(setup: Setup, path: Path) -> Any:
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = setup.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def full_depth(dtype: str, make_file: Any) -> Entry:
    def build(setup: Setup) -> Contestant:
        runtime = require("onnxruntime")
        path, note = make_file(setup)
        session = _session(setup, path)

        def run(request: Request, options: Any = None) -> Answer:
            inputs = {name: getattr(request, name).numpy() for name in INPUTS}
            return Answer(torch.from_numpy(session.run(None, inputs, options)[0]))

        def release() -> None:
            shrink = runtime.RunOptions()
            shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            ids = torch.ones(1, 2, dtype=torch.int64)
            run(Request(ids, ids), shrink)

        return Contestant(run, release=release, note=note)

    return Entry(f"ONNX Runtime {dtype}", FULL_DEPTH_PEER, dtype, build, devices=("cpu",))


ENTRIES = (full_depth("float32", _optimised), full_depth("int8", _quantised))

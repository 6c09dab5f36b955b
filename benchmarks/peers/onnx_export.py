"""The model as an ONNX file, which ONNX Runtime and OpenVINO read."""

from __future__ import annotations

import copy
import importlib
import warnings
from pathlib import Path
from typing import Any

import torch

from peers.contestant import NotAvailable, Setup

INPUTS = ("input_ids", "attention_mask")


def require(module: str) -> Any:
    """The imported module; `NotAvailable` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotAvailable(f"{error}: pip install '.[bench]'") from error


def onnx_file(setup: Setup) -> Path:
    """Full depth in float32 with dynamic batch and length; exported once per `setup`.

    With the TorchScript exporter and eager attention, for these are the graphs in which ONNX Runtime finds attention
    to fuse.
    """
    require("onnx")
    path = setup.folder / "model.onnx"
    if path.exists():
        return path
    classifier: Any = copy.deepcopy(setup.classifier())
    classifier.backbone.set_attn_implementation("eager")
    ids = torch.ones(2, 16, dtype=torch.int64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own deprecation, and of shapes that it traces as constants
        torch.onnx.export(
            classifier,
            (ids, ids.clone()),
            str(path),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in INPUTS} | {"logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    return path

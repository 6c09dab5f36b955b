"""The contestants of the comparison, one file per family, in the order of the tables."""

from __future__ import annotations

from peers import (
    onnx_runtime,
    openvino_runtime,
    ours,
    plain_adaptive,
    pypi_fastbert,
    torch_compile,
    transformers_eager,
)
from peers.contestant import Entry

BASELINE = transformers_eager.BASELINE
ENTRIES: tuple[Entry, ...] = (
    *transformers_eager.ENTRIES,
    *torch_compile.ENTRIES,
    *onnx_runtime.ENTRIES,
    *openvino_runtime.ENTRIES,
    *transformers_eager.STATIC_ENTRIES,
    *pypi_fastbert.ENTRIES,
    *plain_adaptive.ENTRIES,
    *ours.ENTRIES,
)

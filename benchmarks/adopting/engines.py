"""Other engines, for the classifier at full depth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comparing.report import peer_versions
from fastbert_hf.timing import Batch
from peers import onnx_runtime, openvino_runtime
from peers.contestant import Contestant, NotAvailable, Request
from peers.plain import PlainSetup

Call = Callable[[Batch], Tensor]
_ENTRIES = (*onnx_runtime.ENTRIES, *openvino_runtime.ENTRIES)


def described() -> dict[str, Any]:
    """Return what decides which engines answer: those that there are, and the versions of what they are made of."""
    return {"names": [entry.name for entry in _ENTRIES], "versions": peer_versions()}


@contextmanager
def engines(classifier: Any, batches: list[Batch]) -> Iterator[tuple[dict[str, Call], dict[str, str]]]:
    """Give what answers batches with logits [B, N], by the engine's name, until the block ends, and why others do not.

    Args:
        classifier: of Transformers, in float32 on the CPU.
        batches: what they are to answer.
    """
    calls: dict[str, Call] = {}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        setup = PlainSetup(classifier, torch.device("cpu"), torch.get_num_threads(), Path(folder))
        for entry in _ENTRIES:
            try:
                if any(bool(batch["token_type_ids"].any()) for batch in batches if "token_type_ids" in batch):
                    raise NotAvailable("it is exported without the segments that pairs of texts have")
                calls[entry.name] = _call(entry.build(setup))
            except NotAvailable as reason:
                missing[entry.name] = str(reason)
        yield calls, missing


def _call(contestant: Contestant) -> Call:
    return lambda batch: contestant.run(Request(batch["input_ids"], batch["attention_mask"])).logits

"""A short name for the weights that a calibration holds for."""

from __future__ import annotations

import hashlib
from typing import Any

import torch


def model_fingerprint(model: Any) -> str:
    """Return the SHA-256, in hexadecimal, of a FastBERT model: of the exit layers and of all parameters and buffers,
    with names, dtypes, shapes and bytes.

    The same on every device and whether the model is patched or not; another after a training step or in another dtype.
    """
    digest = hashlib.sha256(repr(list(model.config.exit_layers)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""A short name for the weights that a calibration holds for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch


def model_fingerprint(model: Any) -> str:
    """Return the SHA-256, in hexadecimal, of a FastBERT model: of the exit layers and of all parameters and buffers,
    with names, dtypes, shapes and bytes.

    The same on every device and whether the model is patched or not; another after a training step or in another dtype.
    """
    return _fingerprint_of(model.state_dict(), repr(list(model.config.exit_layers)))


def full_depth_fingerprint(model: Any) -> str:
    """Return the same of what full depth runs alone: the backbone and the teacher classifier."""
    parts = ("backbone.", f"heads.{len(model.heads) - 1}.")
    return _fingerprint_of({name: value for name, value in model.state_dict().items() if name.startswith(parts)})


def _fingerprint_of(tensors: Mapping[str, torch.Tensor], more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

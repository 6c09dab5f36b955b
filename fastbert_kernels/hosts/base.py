"""What a host file provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastbert_kernels.engine.weights import EncoderWeights


@dataclass(frozen=True)
class Host:
    """How one FastBERT implementation maps to the engine.

    Attributes:
        name: as users know the implementation.
        matches: whether a model is of it. It is asked about models that exist, so it never has to import the
            implementation.
        encoder_weights: (model, dtype or None, backend) -> the weights, each derived when first needed; ValueError with
            the reason for a model of this implementation that cannot be patched.
        forward: (model, weights, backend, *args, **kwargs) -> what the host's own `forward(*args, **kwargs)` returns,
            or NotImplemented for a call that the host's own forward should answer.
    """

    name: str
    matches: Callable[[nn.Module], bool]
    encoder_weights: Callable[[nn.Module, torch.dtype | None, str], EncoderWeights]
    forward: Callable[..., Any]

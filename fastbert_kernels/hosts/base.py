"""What a host file provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastbert_kernels.engine.derived import Derived
from fastbert_kernels.engine.encoder import Encoder


@dataclass(frozen=True)
class Host:
    """How one FastBERT implementation maps to the engine.

    Attributes:
        name: as users know the implementation.
        matches: whether a model is of it. It is asked about models that exist, so it never has to import the
            implementation.
        encoder: (model, dtype or None, backend) -> the model's layers and heads, derived from its parameters when first
            needed; ValueError with the reason for a model of this implementation that cannot be patched.
        forward: (model, encoder, *args, **kwargs) -> what the host's own `forward(*args, **kwargs)` returns, or
            NotImplemented for a call that the host's own forward should answer.
    """

    name: str
    matches: Callable[[nn.Module], bool]
    encoder: Callable[[nn.Module, torch.dtype | None, str], Derived[Encoder]]
    forward: Callable[..., Any]

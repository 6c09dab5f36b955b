"""What hosts share that keep their own layers: the encoder from layers and heads, and a call with padded hidden
states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastbert_kernels.engine.dtypes import EncoderDtype
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.engine.host_layers import CallLayer, HostEncoder, PaddedBatch
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH, Rule
from fastbert_kernels.engine.weights import teacher_classifier
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.guard import differences
from fastbert_kernels.hosts.heads import AttentiveHead, HostHead, PooledHead
from fastbert_kernels.hosts.padding import ValidTokens, check_tokens
from fastbert_kernels.hosts.parameters import ParameterGroups
from fastbert_kernels.hosts.structure import refuse


@dataclass(frozen=True)
class HostPath:
    """A model's layers and heads, and how a layer is called.

    Attributes:
        model: whose they are.
        layers: L modules.
        heads: L, None behind a layer without exit head; the last layer has one.
        call_layer: as of `engine.host_layers.HostEncoder`.
        dtype: as in `patch`.
        backend: as in `patch`.
        head_modules: the modules that the heads are in the model, where more is known of them than their linear layers.
    """

    model: nn.Module
    layers: Sequence[nn.Module]
    heads: Sequence[HostHead | None]
    call_layer: CallLayer
    dtype: EncoderDtype | None
    backend: str
    head_modules: Sequence[nn.Module] = ()

    def __post_init__(self) -> None:
        if not self.layers or not all(isinstance(layer, nn.Module) for layer in self.layers):
            raise TypeError(f"layers must be one or more torch modules, not {_kinds(self.layers)}")
        if not all(head is None or isinstance(head, (PooledHead, AttentiveHead)) for head in self.heads):
            raise TypeError(f"heads must be PooledHead, AttentiveHead or None, not {_kinds(self.heads)}")
        if len(self.heads) != len(self.layers):
            raise ValueError(
                f"there must be as many heads as layers, {len(self.layers)}, not {len(self.heads)}; a layer without "
                "exit head has None"
            )
        if self.heads[-1] is None:
            raise ValueError("the last layer must have a head: it answers for whoever leaves nowhere else")

    def encoder(self) -> Derived[Encoder]:
        parts = self._parts()
        replaced = list(dict.fromkeys((*self.head_modules, *(module for module, _ in parts.flat()))))
        names = {module: name for name, module in self.model.named_modules()}
        found = differences({names.get(module, "exit head"): module for module in replaced})
        refuse(self.model, "a model of its own layers", found)
        return Derived(self.model, parts.flat(), self._build, replaced)

    def _parts(self) -> ParameterGroups:
        return ParameterGroups([], [[] if head is None else head.parameters() for head in self.heads])

    def _build(self, *tensors: Tensor) -> Encoder:
        """Make the encoder from the values of the heads' parameters; the layers are called as they are."""
        precision = tensors[0].dtype
        if self.dtype not in (None, precision):
            floating = isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point
            remedy = f"convert them with model.to({self.dtype})" if floating else "leave dtype out"
            raise ValueError(
                f"dtype={self.dtype} is not available here: the model's own layers run in the precision of its "
                f"weights, {precision}; {remedy}"
            )
        _, groups = self._parts().split(tensors)
        heads = [
            None if head is None else head.weights(group, precision)
            for head, group in zip(self.heads, groups, strict=True)
        ]
        if len(counts := {head.num_labels for head in heads if head is not None}) > 1:
            raise ValueError(f"all heads must have the same number of labels, not {sorted(counts)}")
        return HostEncoder(self.layers, heads, self.call_layer, self.backend, precision)


def run_padded(
    encoder: HostEncoder,
    hidden: Tensor,
    valid: Tensor,
    speed: float | Tensor | None,
    *,
    rule: Rule = ENTROPY_RULE,
    keep_padding: bool = False,
) -> Results:
    """Run a padded batch through the host's layers.

    Args:
        hidden: [B, L, H], what the first layer takes.
        valid: bool [B, L], True at tokens.
        speed: a number or [B] for each sample, the threshold of the uncertainty; None runs to full depth.
        rule: the criterion, and the thresholds of the layers.
        keep_padding: padding stays where it is and counts as tokens for the heads; layers are told `valid`.

    Raises:
        ValueError: shapes do not fit, or a sample has no token and its padding is not kept.
        TypeError: `valid` is not bool.
    """
    if hidden.dim() != 3:
        raise ValueError(f"hidden must be [batch, length, hidden size], not {list(hidden.shape)}")
    size, length, _ = hidden.shape
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        raise TypeError(f"valid must be a bool tensor, not {getattr(valid, 'dtype', type(valid).__name__)}")
    if valid.shape != (size, length):
        raise ValueError(f"valid must have shape {[size, length]}, as hidden, not {list(valid.shape)}")
    thresholds = torch.as_tensor(0.0 if speed is None else speed, dtype=torch.float32, device=hidden.device)
    if thresholds.shape not in ((), (size,)):
        raise ValueError(f"speed must be a number or have shape {[size]}, not {list(thresholds.shape)}")
    if size == 0:
        return Results.empty(hidden, 0, teacher_classifier(encoder.heads).num_labels)
    if not keep_padding:
        check_tokens(valid)
    batch = pack_padded(encoder, hidden, valid, thresholds.expand(size).contiguous(), keep_padding=keep_padding)
    return encoder.run(batch, FULL_DEPTH if speed is None else rule)


def pack_padded(
    encoder: HostEncoder, hidden: Tensor, valid: Tensor, speed: float | Tensor, *, keep_padding: bool = False
) -> PackedBatch:
    """Pack what the first layer takes; arguments as of `run_padded`, checked, `speed` a number or float32 [B]."""
    hidden = hidden.to(encoder.dtype)
    if not keep_padding:
        tokens = ValidTokens.of(valid)
        return PackedBatch.of(tokens.take(hidden), tokens.cu_seqlens, tokens.max_seqlen, speed)
    size, length = valid.shape
    bounds = torch.arange(0, (size + 1) * length, length, dtype=torch.int32, device=hidden.device)
    return PaddedBatch(**vars(PackedBatch.of(hidden.flatten(0, 1), bounds, length, speed)), valid=valid)


def _kinds(values: Sequence[object]) -> str:
    return f"[{', '.join(type(value).__name__ for value in values)}]"

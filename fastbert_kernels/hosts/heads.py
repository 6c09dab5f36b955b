"""Exit heads by the modules that hold their parameters, for hosts that need no more than to name them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.engine.weights import AttentiveHeadWeights, PooledHeadWeights
from fastbert_kernels.hosts.parameters import Parameters, linear_parameters
from fastbert_kernels.ops.pooled_exit_head import MAX_LAYERS, POOLINGS
from fastbert_kernels.reference import ACTIVATIONS


@dataclass(frozen=True)
class PooledHead:
    """pool(X) -> Linear -> (activation -> Linear)* -> logits.

    Attributes:
        layers: 1 to 3 of `torch.nn.Linear`; the first takes H, the last gives N logits.
        pooling: "first", "mean" or "max", over the sample's tokens.
        activation: between the layers, "identity", "tanh", "relu" or "gelu".
    """

    layers: Sequence[nn.Module]
    pooling: str = "first"
    activation: str = "tanh"

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise ValueError(f"a PooledHead has 1 to {MAX_LAYERS} layers, not {len(self.layers)}")
        _check_linear(self, **{f"layers[{number}]": layer for number, layer in enumerate(self.layers)})
        layers: list[Any] = list(self.layers)
        for number, (before, layer) in enumerate(itertools.pairwise(layers), start=1):
            _check_widths(self, f"layers[{number}]", layer, before.out_features)
        _check_labels(self, self.layers[-1])
        _check_choice("pooling", self.pooling, *POOLINGS)
        _check_choice("activation", self.activation, *ACTIVATIONS)

    def parameters(self) -> Parameters:
        return linear_parameters(list(self.layers))

    def weights(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> PooledHeadWeights:
        """From the values of `parameters()`, for hidden states of `dtype`."""
        return PooledHeadWeights.cast(
            tensors[::2], tensors[1::2], pooling=self.pooling, activation=self.activation, dtype=dtype
        )


@dataclass(frozen=True)
class AttentiveHead:
    """The exit head of Liu et al. 2020, section 3.1: projection to C, self-attention over all tokens, dense layer and
    classifier on the first. Its layers are `torch.nn.Linear`.

    Attributes:
        projection: H -> C.
        query: C -> C.
        key: C -> C.
        value: C -> C.
        dense: C -> C.
        classifier: C -> N.
        attention_output: C -> C behind the attention, None where there is none.
        num_attention_heads: divides C; scores are divided by the root of the size of a head.
        narrow_activation: behind the projection, "tanh" or "identity".
        mlp_activation: the same, behind `dense`.
    """

    projection: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    attention_output: nn.Module | None
    dense: nn.Module
    classifier: nn.Module
    num_attention_heads: int
    narrow_activation: str = "tanh"
    mlp_activation: str = "tanh"

    def __post_init__(self) -> None:
        _check_linear(
            self,
            **{
                field.name: module
                for field in dataclasses.fields(self)[:7]
                if (module := getattr(self, field.name)) is not None or field.name != "attention_output"
            },
        )
        width: Any = self.projection.out_features
        for name in ("query", "key", "value", "attention_output", "dense"):
            if getattr(self, name) is not None:
                _check_widths(self, name, getattr(self, name), width, width)
        _check_widths(self, "classifier", self.classifier, width)
        _check_labels(self, self.classifier)
        heads = self.num_attention_heads
        if type(heads) is not int or heads < 1 or width % heads:
            raise ValueError(f"num_attention_heads of AttentiveHead must divide its width {width}, not {heads!r}")
        _check_choice("narrow_activation", self.narrow_activation, "tanh", "identity")
        _check_choice("mlp_activation", self.mlp_activation, "tanh", "identity")

    def parameters(self) -> Parameters:
        parameters = linear_parameters([self.projection, self.query, self.key, self.value, self.dense, self.classifier])
        parameters.remove((self.key, "bias"))  # it drops out of the softmax
        return parameters + ([] if self.attention_output is None else linear_parameters([self.attention_output]))

    def weights(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> AttentiveHeadWeights:
        """From the values of `parameters()`, for hidden states of `dtype`."""
        until_value, behind, output = tensors[:7], tensors[7:11], tensors[11:]
        if not output:
            value = tensors[5]
            output = (torch.eye(value.shape[0], device=value.device), value.new_zeros(value.shape[0]))
        folded = fold_attentive_head(
            *until_value, *output, *behind, num_attention_heads=self.num_attention_heads, dtype=dtype
        )
        return dataclasses.replace(folded, narrow_activation=self.narrow_activation, mlp_activation=self.mlp_activation)


HostHead = PooledHead | AttentiveHead


def _check_linear(head: HostHead, **modules: nn.Module | None) -> None:
    for name, module in modules.items():
        if type(module) is not nn.Linear:  # a class derived from Linear may compute something else
            raise TypeError(
                f"{name} of {type(head).__name__} must be a torch.nn.Linear, not a {type(module).__name__}: the fused "
                "head reads its weight and bias"
            )
        if module.bias is None:
            raise ValueError(f"{name} of {type(head).__name__} has no bias; give it one of zeros")


def _check_widths(head: HostHead, name: str, layer: Any, inputs: int, outputs: int | None = None) -> None:
    if layer.in_features != inputs or outputs not in (None, layer.out_features):
        raise ValueError(f"{name} of {type(head).__name__} must be {inputs} -> {outputs or 'any'}, not {layer}")


def _check_labels(head: HostHead, last: Any) -> None:
    if last.out_features < 2:
        raise ValueError(f"a {type(head).__name__} must have two labels or more: with one there is nothing to decide")


def _check_choice(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(allowed)}")

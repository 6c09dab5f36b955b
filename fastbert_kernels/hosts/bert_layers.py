"""Where the post-LayerNorm encoder layers of Transformers keep their weights: BERT's names, which RoBERTa, XLM-RoBERTa,
CamemBERT, ELECTRA and others share, and DistilBERT's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fastbert_kernels.engine.weights import LayerWeights

Parameters = list[tuple[nn.Module, str]]  # as `engine.derived.Derived` takes them


@dataclass(frozen=True)
class LayerNames:
    """Names within a layer: of its Linear layers and LayerNorms, in the order in which data meets them, and of the
    activation."""

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    intermediate: str
    output: str
    output_norm: str
    activation: str

    def modules(self) -> tuple[str, ...]:
        return (
            self.query,
            self.key,
            self.value,
            self.attention_output,
            self.attention_norm,
            self.intermediate,
            self.output,
            self.output_norm,
        )

    def parameters(self) -> set[str]:
        return {f"{module}.{name}" for module in self.modules() for name in ("weight", "bias")}


BERT = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    intermediate="intermediate.dense",
    output="output.dense",
    output_norm="output.LayerNorm",
    activation="intermediate.intermediate_act_fn",
)
DISTILBERT = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    intermediate="ffn.lin1",
    output="ffn.lin2",
    output_norm="output_layer_norm",
    activation="ffn.activation",
)


def names_of(layer: nn.Module) -> LayerNames:
    """The names of a layer.

    Raises:
        ValueError: it has other parameters than these, or other modules than Linear and LayerNorm hold them, so that
            it may compute something else.
    """
    found = {name for name, _ in layer.named_parameters()}
    for names in (BERT, DISTILBERT):
        if found == names.parameters():
            break
    else:
        strange = found - (BERT if found & BERT.parameters() else DISTILBERT).parameters()
        raise ValueError(
            f"layers of the kind {type(layer).__name__} cannot be patched: their parameters are not those of a BERT or "
            f"DistilBERT layer{f' (unknown: {sorted(strange)})' if strange else ''}; the unpatched model serves them"
        )
    for name in names.modules():
        module = layer.get_submodule(name)
        expected = nn.LayerNorm if name in (names.attention_norm, names.output_norm) else nn.Linear
        if type(module) is not expected:  # a class derived from Linear may compute something else
            raise ValueError(
                f"layers whose {name} is a {type(module).__name__} cannot be patched, it must be a "
                f"torch.nn.{expected.__name__}; the unpatched model serves them"
            )
    return names


def layer_parameters(layer: nn.Module) -> Parameters:
    """What `layer_weights` takes, in its order."""
    return linear_parameters([layer.get_submodule(name) for name in names_of(layer).modules()])


def linear_parameters(modules: list[nn.Module]) -> Parameters:
    """Weight and bias of each module in turn."""
    return [(module, name) for module in modules for name in ("weight", "bias")]


def layer_weights(
    layer: nn.Module, tensors: list[Tensor], *, num_attention_heads: int, activation_name: str
) -> LayerWeights:
    """The layer as the engine takes it.

    Args:
        tensors: the values of `layer_parameters(layer)`.
    """
    names = names_of(layer)
    eps, other = (
        cast(nn.LayerNorm, layer.get_submodule(name)).eps for name in (names.attention_norm, names.output_norm)
    )
    if eps != other:
        raise ValueError(f"layers whose LayerNorms have different eps, {eps} and {other}, cannot be patched")
    return LayerWeights(
        num_attention_heads,
        eps,
        layer.get_submodule(names.activation),
        activation_name,
        torch.cat(tensors[0:6:2]),
        torch.cat(tensors[1:6:2]),
        *tensors[6:],
    )
